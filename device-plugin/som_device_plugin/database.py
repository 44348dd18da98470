"""The agent's durable memory: one SQLite file under the state directory.

WAL with full sync: a commit survives a power cut (sqlite.org/wal.html). `user_version` names the
schema; a file of a newer agent is refused, never guessed at.

Calls are made where their answer is needed, the event loop included: between a look at the store
and the write that follows from it nothing may happen. So a disk that is slow to sync delays the
answers to kubelet by as much; `som_agent_store_write_seconds` shows it.
"""

import contextlib
import pathlib
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, Final, LiteralString

from som_api import SomError
from som_device_plugin import metrics

_SCHEMA: Final = """
CREATE TABLE leases (
    lease_id TEXT PRIMARY KEY,
    ticket TEXT NOT NULL,
    named_order INTEGER NOT NULL,
    namespace TEXT, pod TEXT, container TEXT, uid TEXT,
    unit TEXT, size_bytes INTEGER,
    keep_on_restart INTEGER NOT NULL DEFAULT 0,
    last_number INTEGER NOT NULL DEFAULT 0,
    ended INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE starts (
    lease_id TEXT NOT NULL REFERENCES leases (lease_id),
    number INTEGER NOT NULL,
    boot_id TEXT NOT NULL,
    pool TEXT NOT NULL,
    slot INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    page_bytes INTEGER NOT NULL,
    preferred_node INTEGER,
    state TEXT NOT NULL,
    PRIMARY KEY (lease_id, number)
) STRICT;
CREATE TABLE foreign_pages (
    page_bytes INTEGER NOT NULL,
    node INTEGER NOT NULL,
    boot_id TEXT NOT NULL,
    pages INTEGER NOT NULL,
    PRIMARY KEY (page_bytes, node)
) STRICT;
CREATE TABLE pool_pages (
    pool TEXT NOT NULL,
    page_bytes INTEGER NOT NULL,
    node INTEGER NOT NULL,
    boot_id TEXT NOT NULL,
    pages INTEGER NOT NULL,
    intended_pages INTEGER NOT NULL,
    PRIMARY KEY (pool, page_bytes, node)
) STRICT;
CREATE TABLE orders (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    generation INTEGER NOT NULL,
    spec TEXT NOT NULL,
    leaving TEXT NOT NULL
) STRICT;
"""
_RANGES: Final = """
CREATE TABLE unbound_devices (
    device TEXT PRIMARY KEY,
    pool TEXT NOT NULL,
    driver TEXT NOT NULL,
    boot_id TEXT NOT NULL
) STRICT;
CREATE TABLE carved_blocks (
    start INTEGER PRIMARY KEY,
    pool TEXT NOT NULL,
    zone TEXT NOT NULL,
    boot_id TEXT NOT NULL
) STRICT;
"""
_SPARES: Final = """
ALTER TABLE starts ADD COLUMN built_as TEXT NOT NULL DEFAULT '';
CREATE TABLE asked (
    pool TEXT NOT NULL,
    number INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    node INTEGER,
    at_once INTEGER NOT NULL,
    PRIMARY KEY (pool, number)
) STRICT;
"""
_SUCCESSORS: Final = """
ALTER TABLE leases ADD COLUMN keep_s REAL NOT NULL DEFAULT 0;
ALTER TABLE leases ADD COLUMN lineage TEXT NOT NULL DEFAULT '';
ALTER TABLE leases ADD COLUMN kept_until_s REAL;
"""
_STEPS: Final = (
    _SCHEMA,
    "ALTER TABLE starts ADD COLUMN told_at_s REAL;",
    "ALTER TABLE starts ADD COLUMN driver TEXT NOT NULL DEFAULT 'HugeTLBFS';",
    _RANGES,
    "CREATE TABLE page_drivers (pool TEXT PRIMARY KEY, driver TEXT NOT NULL) STRICT;",
    "ALTER TABLE leases ADD COLUMN preload TEXT NOT NULL DEFAULT '';",
    """
    ALTER TABLE starts ADD COLUMN used INTEGER NOT NULL DEFAULT 0;
    UPDATE starts SET used = 1 WHERE state = 'delivered';
    """,
    _SPARES,
    _SUCCESSORS,
    "ALTER TABLE leases ADD COLUMN movable INTEGER NOT NULL DEFAULT 0;",
)
"""What makes each version of the schema of the one before."""


_CURE: Final = (
    "A damaged store can be moved away (with its -wal and -shm): then delete this node's pods with "
    "som memory, which have lost their leases"
)


class DatabaseError(SomError):
    """The store cannot be opened, read or written."""


def open_database(path: pathlib.Path) -> sqlite3.Connection:
    """Open or create the store at `path`; autocommit outside `transaction`.

    Raises:
        DatabaseError: not writable, not a database or a damaged one, or written by a newer agent.
    """
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        # 56 KiB with 256 leases: a damage is found before anything follows from it.
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(" ".join(found.split()))
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if steps := "".join(_STEPS[version:]):
            connection.executescript(
                f"BEGIN IMMEDIATE; {steps} PRAGMA user_version = {len(_STEPS)}; COMMIT;"
            )
    except sqlite3.Error as error:
        raise DatabaseError(
            f"opening the store {path}: {error}; check that the directory is writable, on a "
            f"local disk with free space. {_CURE}"
        ) from error
    if version > len(_STEPS):
        connection.close()
        raise DatabaseError(
            f"the store {path} was written by a newer agent (schema {version}, this one knows "
            f"{len(_STEPS)}); run that version or newer"
        )
    return connection


def read(
    connection: sqlite3.Connection, query: LiteralString, parameters: Sequence[object] = ()
) -> list[Any]:
    """All rows that `query` finds.

    Raises:
        DatabaseError: the store is damaged, or its disk fails.
    """
    try:
        return connection.execute(query, parameters).fetchall()
    except sqlite3.Error as error:
        raise DatabaseError(f"reading the agent's store: {error}. {_CURE}") from error


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing, durable when the block has ended.

    Raises:
        DatabaseError: nothing was written; the disk may be full or read-only.
    """
    try:
        with metrics.STORE_WRITE_SECONDS.time():
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("COMMIT")
    except BaseException as error:
        # SQLite itself has rolled back what did not fit on the disk (sqlite.org/lang_transaction).
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if isinstance(error, sqlite3.Error):
            raise DatabaseError(
                f"writing the agent's store: {error}; see that its disk has free space and is "
                "writable"
            ) from error
        raise
