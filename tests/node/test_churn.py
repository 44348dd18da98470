"""Random life on a node, for SOM_CHURN_SECONDS, with the seed SOM_CHURN_SEED or a new one."""

import os
import pathlib
import shutil
import signal
import tempfile
from collections.abc import Iterator

import pytest

from node import churn, claims, conftest, local_node, machine
from som_device_plugin.linux import hugepages

UNITS = 48
SECONDS = float(os.environ.get("SOM_CHURN_SECONDS") or 40)


@pytest.fixture
def state_dir() -> Iterator[pathlib.Path]:
    """A short one: the path of a socket has at most 107 bytes. Others may enter its parent."""
    parent = pathlib.Path(tempfile.mkdtemp(prefix="som-"))
    parent.chmod(0o755)
    (parent / "s").mkdir(mode=0o700)
    yield parent / "s"
    shutil.rmtree(parent)


def test_every_owner_finds_zeroes_and_keeps_its_bytes_whatever_happens_around_it(
    state_dir: pathlib.Path, program: conftest.Programs
) -> None:
    seed = claims.seed_of("SOM_CHURN_SEED")
    claims.note(f"churn of {SECONDS:g} s with SOM_CHURN_SEED={seed}")
    owner = str(shutil.copy(program("claim"), state_dir.parent))
    with local_node.started(state_dir) as node:
        run = churn.Churn(node, seed=seed, units=UNITS, program=owner)
        run.run(SECONDS, served=8)
    claims.note(f"{dict(run.count)}")
    assert not run.faults, f"SOM_CHURN_SEED={seed}: " + "\n".join(run.faults)


def test_who_is_forked_meanwhile_keeps_no_page_of_a_stranger() -> None:
    page, before = churn.PAGE, hugepages.node_counts(churn.PAGE, 0)
    hugepages.write_persistent(page, 0, before.persistent + 1)
    memory = machine.huge_memory(1)
    child = os.fork()
    if not child:
        signal.pause()
    memory.close()
    after = hugepages.node_counts(page, 0)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    hugepages.write_persistent(page, 0, before.persistent)
    assert after.free == before.free + 1
