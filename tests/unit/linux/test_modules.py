"""What /sys/module says of a module."""

import pathlib

import pytest

from som_api import v1alpha1
from som_device_plugin.linux import modules


@pytest.fixture
def som(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setattr(modules, "_MODULES", tmp_path)
    (tmp_path / "som").mkdir()
    for name, text in (("initstate", "live"), ("version", "0.1.0"), ("srcversion", "5F1C")):
        (tmp_path / "som" / name).write_text(f"{text}\n")
    return tmp_path / "som"


def test_a_loaded_module_has_its_version_and_its_source(som: pathlib.Path) -> None:
    assert modules.loaded("som") == v1alpha1.Module(version="0.1.0", src_version="5F1C")


@pytest.mark.parametrize("state", ["coming", "going"])
def test_one_that_comes_or_goes_is_none(som: pathlib.Path, state: str) -> None:
    (som / "initstate").write_text(f"{state}\n")
    assert modules.loaded("som") is None


@pytest.mark.usefixtures("som")
def test_no_module_is_none() -> None:
    assert modules.loaded("another") is None
