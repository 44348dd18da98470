"""On the host each test is its guest's reports; in the guest it is an ordinary test.

All chosen tests run in one guest, by one pytest in it (`inside.py`), in the host's order. It runs
beside the virtual node, each on a processor of its own, and is read when the node's tests are done.
"""

import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Sequence

import pytest

from guests import tried
from node import local_node, machine
from som_device_plugin.drivers.kernel import control
from som_device_plugin.linux import cgroups, hugepages, mountinfo
from som_device_plugin.local.command import place
from vm import forked, inside, outside
from vm.numa import PAGE, persistent, said, used, wait_until

HERE = pathlib.Path(__file__).parent


def in_guest(config: pytest.Config) -> bool:
    return any(isinstance(each, inside.Reporter) for each in config.pluginmanager.get_plugins())


def of_node(item: pytest.Item) -> bool:
    return HERE / "node" in item.path.parents


def of_host(item: pytest.Item) -> bool:
    asks = isinstance(item, pytest.Function) and "console" in item.fixturenames
    return asks or of_node(item)


def pytest_configure(config: pytest.Config) -> None:
    if not in_guest(config):
        config.pluginmanager.register(tried.Tried(HERE, lambda _: outside.KERNEL))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ours = [item for item in items if HERE in item.path.parents]
    if in_guest(config) or not ours:
        return
    if reason := outside.requirements_missing():
        if os.environ.get("CI") == "true":
            pytest.exit(reason, returncode=1)
        for item in ours:
            item.add_marker(pytest.mark.skip(reason=reason))
    items.sort(key=lambda item: (not of_node(item), of_host(item)))
    if not reason:
        config.stash[TESTS] = [item.nodeid for item in ours if not of_host(item)]


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    if session.config.stash.get(TESTS, ()) and not session.config.option.collectonly:
        session.config.stash[GUEST] = outside.Guest(session.config.stash[TESTS])


def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    if in_guest(item.config) or of_host(item) or item.get_closest_marker("skip"):
        return None
    hook = item.ihook
    hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    try:
        for data in item.config.stash[GUEST].reports():
            assert data["nodeid"] == item.nodeid, data
            report = item.config.hook.pytest_report_from_serializable(config=item.config, data=data)
            hook.pytest_runtest_logreport(report=report)
    except AssertionError as error:
        pytest.exit(str(error), returncode=1)
    hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


TESTS = pytest.StashKey[Sequence[str]]()
GUEST = pytest.StashKey[outside.Guest]()


def pytest_sessionfinish(session: pytest.Session) -> None:
    if GUEST in session.config.stash:
        session.config.stash[GUEST].remove()


@pytest.fixture
def console(request: pytest.FixtureRequest) -> str:
    """What the guest's kernel has said, to its end. A test with this fixture runs on the host."""
    if GUEST not in request.config.stash:
        pytest.skip("no test was chosen that needs a guest")
    return request.config.stash[GUEST].end()


# In the guest


@pytest.fixture(scope="module")
def state_dir() -> Iterator[pathlib.Path]:
    """A short one, whose parent others may enter."""
    parent = pathlib.Path(tempfile.mkdtemp(prefix="som-"))
    parent.chmod(0o755)
    (parent / "s").mkdir(mode=0o700)
    yield parent / "s"
    shutil.rmtree(parent)


@pytest.fixture(scope="module")
def foreign() -> Iterator[dict[int, int]]:
    """Pages that others have and use on each NUMA node; nobody has touched them in the end.

    (A free one would be where the kernel moves a page to.)
    """
    others = {0: 5, 1: 3}
    for node, pages in others.items():
        hugepages.write_persistent(PAGE, node, pages)
    with used(sum(others.values())):
        yield others
    assert persistent() == others
    for node in others:
        hugepages.write_persistent(PAGE, node, 0)


@pytest.fixture(scope="module")
def node(state_dir: pathlib.Path, foreign: dict[int, int]) -> Iterator[local_node.LocalNode]:
    """A node without a pool yet; in the end nothing of it stays on the machine."""
    before = machine.Snapshot.take(state_dir)
    new = local_node.LocalNode(state_dir, start=forked.start)
    yield new
    ours = {each.pid for each in (new.agent, new.stand_in) if each is not None}
    for process in machine.Snapshot.take(state_dir).children - before.children - ours:
        os.kill(process, signal.SIGKILL)  # an owner of a test that failed
    if new.agent is not None:
        new.order(0)
        wait_until(lambda: said(new) == [], what="the pool is gone", then=new.log_text)
    for own in filter(None, (new.agent, new.stand_in)):
        own.terminate()
        own.wait(60)
    new.log.close()
    place.remove_cgroups(new.state_dir, cgroups.find(mountinfo.read()))
    wait_until(lambda: not before.difference(), what="nothing is left", then=before.difference)


@pytest.fixture(scope="session")
def som_ko() -> Iterator[None]:
    """som.ko is loaded; in the end nobody has left a pool in it."""
    subprocess.run(["insmod", "/som.ko"], check=True)
    yield
    # A failure here has the name of the last test; the pool's tells which one left it.
    assert [pool.name for pool in control.Module().pools()] == []
    subprocess.run(["rmmod", "som"], check=True)


@pytest.fixture(scope="session")
def devdax() -> str:
    """The name of a device of `memory.DEVDAX`, bound to device_dax and not used by anybody."""
    bus = pathlib.Path("/sys/bus/nd")
    wait_until((bus / "devices/namespace0.0").exists, what="the namespace is there")
    for word, path in (
        ("namespace0.0", bus / "drivers/nd_pmem/unbind"),
        (str(uuid.uuid4()), bus / "devices/dax0.0/uuid"),
        ("ram", bus / "devices/dax0.0/mode"),
        (str(PAGE), bus / "devices/dax0.0/align"),
        ("namespace0.0", bus / "devices/dax0.0/namespace"),
        ("dax0.0", bus / "drivers/dax_pmem/bind"),
    ):
        path.write_text(word)
    wait_until(pathlib.Path("/dev/dax0.0").exists, what="the device is there")
    return "dax0.0"
