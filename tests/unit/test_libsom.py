"""Which containers get libsom, what stays of their own LD_PRELOAD, and the copy on the node."""

import pathlib
from typing import Any

import pytest

from som_device_plugin import libsom

OURS = "/usr/lib/som/libsom.so"
ASKED = {"som.io/malloc": "mimalloc"}


def container(*env: dict[str, Any]) -> dict[str, Any]:
    return {"name": "db", "env": [{"name": "PATH", "value": "/bin"}, *env]}


def preloaded(value: str) -> dict[str, str]:
    return {"name": "LD_PRELOAD", "value": value}


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({}, ""),
        ({"som.io/malloc": "none"}, ""),
        (ASKED, OURS),
        ({"malloc.som.io/db": "mimalloc"}, OURS),
        ({"malloc.som.io/web": "mimalloc"}, ""),
        ({**ASKED, "malloc.som.io/db": "none"}, ""),
    ],
)
def test_a_container_gets_libsom_when_its_pod_or_it_alone_asks(
    annotations: dict[str, str], expected: str
) -> None:
    assert libsom.preload(container(), annotations) == expected
    assert libsom.preload({"name": "db", "env": None}, annotations) == expected


def test_what_the_pod_preloads_stays() -> None:
    theirs = preloaded("/a.so /b.so")
    assert libsom.preload(container(preloaded("/old.so"), theirs), ASKED) == f"{OURS}:/a.so /b.so"
    assert libsom.preload(container(preloaded("")), ASKED) == OURS


@pytest.mark.parametrize(
    "env",
    [
        {"name": "LD_PRELOAD", "valueFrom": {"configMapKeyRef": {"name": "env", "key": "preload"}}},
        preloaded("$(LIBRARY)"),
        preloaded("/a.so:" * 1000),
    ],
)
def test_a_preload_that_nobody_can_keep_is_refused(env: dict[str, Any]) -> None:
    with pytest.raises(libsom.CannotPreload, match="write the libraries' paths"):
        libsom.preload(container(env), ASKED)
    assert libsom.preload(container(env), {}) == ""


def test_an_unknown_allocator_is_refused_and_not_repeated_at_length() -> None:
    with pytest.raises(libsom.CannotPreload, match="som has the allocator mimalloc") as caught:
        libsom.preload(container(), {"som.io/malloc": "jemalloc" * 10000})
    assert len(str(caught.value)) < 200


def test_the_nodes_copy_is_replaced_by_name_and_only_when_it_differs(
    tmp_path: pathlib.Path,
) -> None:
    image, node = tmp_path / "image.so", tmp_path / "node"
    node.mkdir()
    assert libsom.install(image, node) is None
    image.write_bytes(b"one")
    copy = libsom.install(image, node)
    assert copy == node / "libsom/image.so"
    mapped = copy.open("rb")
    assert libsom.install(image, node) == copy
    assert copy.stat().st_ino == pathlib.Path(f"/proc/self/fd/{mapped.fileno()}").stat().st_ino
    image.write_bytes(b"two")
    libsom.install(image, node)
    assert (copy.read_bytes(), mapped.read()) == (b"two", b"one")
    mapped.close()
    assert copy.stat().st_mode & 0o777 == 0o644
