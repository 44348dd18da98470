"""The agent's store: its schema over versions of the agent."""

import pathlib
import random
import sqlite3

import pytest

from som_device_plugin import changes, database
from som_device_plugin.leases import store


def test_a_store_of_an_older_agent_is_brought_up_to_date(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = database._STEPS
    monkeypatch.setattr(database, "_STEPS", steps[:1])
    old = database.open_database(tmp_path / "som.db")
    old.execute("INSERT INTO leases (lease_id, ticket, named_order) VALUES ('a', 'n0-1', 1)")
    old.execute("INSERT INTO starts VALUES ('a', 1, 'boot', 'pool', 0, 8, 2, NULL, 'delivered')")
    old.close()
    monkeypatch.setattr(database, "_STEPS", steps)
    for _ in range(2):
        new = database.open_database(tmp_path / "som.db")
        assert new.execute("SELECT lease_id, told_at_s, driver FROM starts").fetchall() == [
            ("a", None, "HugeTLBFS")
        ]
        new.close()


def test_a_damaged_store_names_the_cure(tmp_path: pathlib.Path) -> None:
    (tmp_path / "som.db").write_bytes(b"damaged" * 1000)
    with pytest.raises(database.DatabaseError, match=r"not a database.*can be moved away"):
        database.open_database(tmp_path / "som.db")


def filled(path: pathlib.Path) -> sqlite3.Connection:
    """A store of 256 leases, with everything in its main file."""
    connection = database.open_database(path)
    with database.transaction(connection):
        connection.executemany(
            "INSERT INTO leases (lease_id, ticket, named_order) VALUES (?, ?, ?)",
            [(f"{number:016x}", f"n0-{number}", number) for number in range(256)],
        )
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return connection


def damage(path: pathlib.Path) -> None:
    """As a disk does: 8 KiB of noise inside, behind a header that is content."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size - 8192)
        file.write(random.Random(1).randbytes(8192))


def test_a_store_that_is_damaged_inside_names_the_cure_before_anything_is_read(
    tmp_path: pathlib.Path,
) -> None:
    filled(tmp_path / "som.db").close()
    damage(tmp_path / "som.db")
    with pytest.raises(database.DatabaseError, match=r"opening the store.*can be moved away"):
        database.open_database(tmp_path / "som.db")


def test_a_store_that_is_damaged_while_it_is_open_names_the_cure(tmp_path: pathlib.Path) -> None:
    connection = filled(tmp_path / "som.db")
    connection.execute("PRAGMA shrink_memory")
    damage(tmp_path / "som.db")
    with pytest.raises(database.DatabaseError, match=r"reading the agent's store.*moved away"):
        store.LeaseStore(connection, changes.Changes()).leases()
    connection.close()


def test_a_commit_survives_a_power_cut(tmp_path: pathlib.Path) -> None:
    """What SQLite promises with these two: sqlite.org/pragma.html#pragma_synchronous."""
    connection = database.open_database(tmp_path / "som.db")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,), "FULL"
    connection.close()


def test_a_store_of_a_newer_agent_is_refused(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.open_database(tmp_path / "som.db").close()
    monkeypatch.setattr(database, "_STEPS", database._STEPS[:1])
    with pytest.raises(database.DatabaseError, match=r"newer agent \(schema \d+, .*knows 1\)"):
        database.open_database(tmp_path / "som.db")
