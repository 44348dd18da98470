"""What the agent makes of its state directory."""

import asyncio
import contextlib
import os
import pathlib
import stat
import sys

import pytest

from som_api import SomError
from som_device_plugin import database, state_dir


def modes(directory: pathlib.Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in (directory, *directory.iterdir())}


@pytest.mark.parametrize("before", [None, 0o755, 0o750])
async def test_the_state_directory_is_the_agents_alone_also_after_an_upgrade(
    tmp_path: pathlib.Path, before: int | None
) -> None:
    directory = tmp_path / "som"
    if before is not None:
        directory.mkdir(mode=before)
    umask = os.umask(0o077)
    try:
        async with state_dir.only_agent(directory):
            with contextlib.closing(database.open_database(directory / state_dir.STORE)):
                assert modes(directory) == {0o700, 0o600}
    finally:
        os.umask(umask)


KILLED_AGENT = """
import os, pathlib, sys
from som_device_plugin import database
store = database.open_database(pathlib.Path(sys.argv[1]))
with database.transaction(store):
    store.execute("INSERT INTO leases (lease_id, ticket, named_order) VALUES ('a', 'n0-1', 1)")
os._exit(0)
"""
# Who may read can lock byte 120, which SQLite's writers need (sqlite.org/walformat.html).
LOCKER = """
import fcntl, os, sys
shared = os.open(sys.argv[1], os.O_RDONLY)
fcntl.lockf(shared, fcntl.LOCK_SH, 1, 120)
print("locked", flush=True)
sys.stdin.read()
"""


async def test_a_lock_that_somebody_has_from_before_the_upgrade_keeps_nobody_from_writing(
    tmp_path: pathlib.Path,
) -> None:
    tmp_path.chmod(0o755)
    store = tmp_path / state_dir.STORE
    killed = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED_AGENT, store)
    await killed.wait()
    locker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", LOCKER, f"{store}-shm"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert locker.stdin and locker.stdout
    assert await locker.stdout.readline() == b"locked\n"
    async with state_dir.only_agent(tmp_path):
        with contextlib.closing(database.open_database(store)) as connection:
            with database.transaction(connection):
                connection.execute("UPDATE leases SET ended = 1")
            assert connection.execute("SELECT lease_id, ended FROM leases").fetchall() == [("a", 1)]
    locker.stdin.close()
    await locker.wait()


async def test_a_state_directory_that_everybody_may_write_is_refused(
    tmp_path: pathlib.Path,
) -> None:
    tmp_path.chmod(0o1777)
    with pytest.raises(SomError, match="give som a directory of its own"):
        async with state_dir.only_agent(tmp_path):
            pass
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o1777
