"""The agent's state directory: one agent at a time, and nobody but root looks into it."""

import asyncio
import contextlib
import fcntl
import logging
import os
import pathlib
import stat
from collections.abc import AsyncIterator
from typing import Final

from som_api import SomError

log = logging.getLogger(__name__)

STORE: Final = "som.db"
LOCK_RETRY_S: Final = 0.2


@contextlib.asynccontextmanager
async def only_agent(state_dir: pathlib.Path) -> AsyncIterator[None]:
    """Hold the node's lock inside the block; waits for the agent that has it."""
    path = state_dir / "agent.lock"
    try:
        was_open = _keep_to_root(state_dir)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SomError(
            f"opening {path}: {error}; run as root, with the state directory on a local disk"
        ) from error
    try:
        waited = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waited:
                    log.info("another agent serves this node; waiting for it to end")
                waited = True
                await asyncio.sleep(LOCK_RETRY_S)
        if was_open:
            # SQLite makes it again from the log: somebody may have locked the old one before.
            (state_dir / f"{STORE}-shm").unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)


def _keep_to_root(state_dir: pathlib.Path) -> bool:
    """Nobody else may look into `state_dir`: he could lock the store, and read whose memory it is.

    Kubelet makes the directory of a hostPath for everybody to read. Whether it was so until now.
    """
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    mode = state_dir.stat().st_mode
    if mode & stat.S_IWOTH:
        raise SomError(
            f"everybody can write to the state directory {state_dir}, so nobody knows whose files "
            "are in it; give som a directory of its own"
        )
    if mode & 0o077:
        state_dir.chmod(0o700)
    return bool(mode & 0o077)
