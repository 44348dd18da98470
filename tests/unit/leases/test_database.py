"""The agent's store: its schema over versions of the agent."""

import pathlib

import pytest

from som_device_plugin.leases import database


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
        assert new.execute("SELECT lease_id, told_at_s FROM starts").fetchall() == [("a", None)]
        new.close()


def test_a_damaged_store_names_the_cure(tmp_path: pathlib.Path) -> None:
    (tmp_path / "som.db").write_bytes(b"damaged" * 1000)
    with pytest.raises(database.DatabaseError, match=r"not a database.*can be moved away"):
        database.open_database(tmp_path / "som.db")


def test_a_store_of_a_newer_agent_is_refused(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.open_database(tmp_path / "som.db").close()
    monkeypatch.setattr(database, "_STEPS", database._STEPS[:1])
    with pytest.raises(database.DatabaseError, match=r"newer agent \(schema 2, this one knows 1\)"):
        database.open_database(tmp_path / "som.db")
