"""What the HugeTLB source remembers across its own death, and not across a boot."""

import pathlib

from som_device_plugin.leases import database
from som_device_plugin.sources import plan, records

PAGE = 2 * 2**20


def test_pages_and_intentions_survive_the_agent_and_not_the_boot(tmp_path: pathlib.Path) -> None:
    connection = database.open_database(tmp_path / "som.db")
    before = records.PageRecords(connection, boot_id="one")
    before.add("databases", PAGE, {0: 0, 1: 0})
    before.save(PAGE, 0, plan.Settled(7, (plan.Share("databases", 100, 100),)))
    before.intend("databases", PAGE, 0, 150)
    connection.close()

    connection = database.open_database(tmp_path / "som.db")
    after = records.PageRecords(connection, boot_id="one")
    assert after.foreign(PAGE, 0) == 7
    assert after.shares(PAGE, 0) == [plan.Share("databases", 100, 150)]
    assert after.pages("databases") == {0: 100, 1: 0}

    other_boot = records.PageRecords(connection, boot_id="two")
    assert other_boot.pools() == {}
    assert other_boot.foreign(PAGE, 0) is None
    connection.close()


def test_a_pool_that_is_found_again_takes_its_pages_out_of_the_others(
    tmp_path: pathlib.Path,
) -> None:
    connection = database.open_database(tmp_path / "som.db")
    known = records.PageRecords(connection, boot_id="one")
    found = 7 + 100 + 50
    for pool, pages in (("a", 100), ("b", 50)):
        known.add(pool, PAGE, {0: pages, 1: 0})
        settled = plan.settle(
            found=found, foreign=known.foreign(PAGE, 0), shares=known.shares(PAGE, 0)
        )
        assert settled.write is None
        known.save(PAGE, 0, settled)
    assert known.foreign(PAGE, 0) == 7
    assert known.pages("a") == {0: 100, 1: 0}
    assert known.pages("b") == {0: 50, 1: 0}
    connection.close()


def test_others_pages_are_forgotten_with_the_last_pool_of_their_size(
    tmp_path: pathlib.Path,
) -> None:
    connection = database.open_database(tmp_path / "som.db")
    known = records.PageRecords(connection, boot_id="one")
    for pool in ("a", "b"):
        known.add(pool, PAGE, {0: 0})
    known.save(PAGE, 0, plan.Settled(7, ()))

    known.forget("a")
    assert known.foreign(PAGE, 0) == 7
    known.forget("b")
    assert known.foreign(PAGE, 0) is None
    connection.close()
