"""Fixtures of the node tier: root, real huge pages, real mounts, real cgroups.

Every test takes its turn at the machine's huge pages and is checked to have given all back.
"""

import os
import pathlib
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator

import pytest

from node import machine, nodes
from som_device_plugin.linux import cgroups, hugepages, mountinfo

MIB = 2**20

# A shell's background job ignores it, and hands that on to all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


class Programs:
    """C programs by name, compiled at their first use."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory

    def __call__(self, name: str, *flags: str) -> str:
        binary = self._directory / name
        if not binary.exists():
            source = pathlib.Path(__file__).parent / "programs" / f"{name}.c"
            subprocess.run(["gcc", "-O1", "-Wall", *flags, "-o", binary, source], check=True)
        return str(binary)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without root or huge pages the tier is skipped, with the reason."""
    reason = ""
    if os.geteuid() != 0:
        reason = "the node tier needs root"
    elif 2 * MIB not in hugepages.page_sizes():
        reason = "the node tier needs a kernel with 2 MiB huge pages (CONFIG_HUGETLBFS)"
    for item in items:
        if reason and pathlib.Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def mount_namespace(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Mounts of the tests are the tests' own, with a hugetlb hierarchy among them."""
    machine.own_mount_namespace()
    try:
        cgroups.find(mountinfo.read())
    except cgroups.CgroupError:
        # Somebody has the v1 hierarchy mounted elsewhere, a cluster of tests for instance.
        machine.mount_v1(tmp_path_factory.mktemp("hugetlb"))


@pytest.fixture(autouse=True)
def own_machine(mount_namespace: None, state_dir: pathlib.Path) -> Iterator[machine.Snapshot]:
    """The machine's huge pages for one test, which leaves nothing behind."""
    with machine.turn():
        before = machine.Snapshot.take(state_dir)
        yield before
        try:
            machine.wait_until(lambda: not before.difference(), what="the test has given all back")
        except AssertionError:
            left = before.difference()
            before.restore()
            pytest.fail(f"the test left something on the machine:\n{left}")


@pytest.fixture
def state_dir(tmp_path: pathlib.Path) -> pathlib.Path:
    """A state directory of the test's own."""
    path = tmp_path / "state"
    path.mkdir()
    return path


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    """Compiles the C programs of `programs/`."""
    return Programs(tmp_path_factory.mktemp("programs"))


@pytest.fixture
async def node(state_dir: pathlib.Path) -> AsyncIterator[nodes.Node]:
    """A node with no pool yet; everything on it is given back in the end."""
    new = nodes.Node(state_dir)
    yield new
    await new.give_back()


@pytest.fixture
def hierarchy(
    request: pytest.FixtureRequest, own_machine: machine.Snapshot, tmp_path: pathlib.Path
) -> Iterator[cgroups.Hierarchy]:
    """The hugetlb controller in the hierarchy that the test names: `v1` or `v2`."""
    with machine.controller_in(request.param, tmp_path / "hugetlb"):
        yield cgroups.find(mountinfo.read())
