"""What a machine lacks for a pool is said before anything is done."""

import pathlib
from collections.abc import Mapping

import pytest

from som_api import v1alpha1
from som_device_plugin.linux import modules
from som_device_plugin.local import Wrong, layout
from som_device_plugin.local.command import place


def sompool(source: Mapping[str, object]) -> v1alpha1.SomPool:
    spec = {"unit": "2Mi", "capacity": "1Gi", "source": source}
    kind = {"apiVersion": "som.io/v1alpha1", "kind": "SomPool", "metadata": {"name": "a"}}
    return v1alpha1.parse_sompool({**kind, "spec": spec})


def test_a_pool_of_the_module_needs_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules, "loaded", lambda _: None)
    state_dir = layout.StateDir(pathlib.Path("/not-made"))
    sources: list[Mapping[str, object]] = [
        {"carved": {}},
        {"external": {"ranges": ["0x100000000-0x17fffffff"]}},
    ]
    for source in sources:
        with pytest.raises(Wrong, match=r"som\.ko is not loaded.*driver/README\.md"):
            place.check_machine(sompool(source), state_dir)
