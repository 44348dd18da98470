"""What the HugeTLB source remembers across its own death, and not across a boot."""

import pathlib
import threading

from som_device_plugin import database
from som_device_plugin.sources.hugetlb import accounts, records

PAGE = 2 * 2**20


def test_pages_and_intentions_survive_the_agent_and_not_the_boot(tmp_path: pathlib.Path) -> None:
    connection = database.open_database(tmp_path / "som.db")
    before = records.PageRecords(connection, boot_id="one")
    before.add("databases", PAGE, {0: 0, 1: 0}, driver="Kernel")
    share = accounts.Share({0: 100, 1: 0}, {0: 100, 1: 0})
    before.save(PAGE, accounts.Ledger({0: 7, 1: 0}, {"databases": share}, setting=9))
    before.intend("databases", PAGE, 0, 150)
    connection.close()

    connection = database.open_database(tmp_path / "som.db")
    after = records.PageRecords(connection, boot_id="one")
    intended = accounts.Share({0: 100, 1: 0}, {0: 150, 1: 0})
    assert after.ledger(PAGE) == accounts.Ledger({0: 7, 1: 0}, {"databases": intended}, setting=9)
    assert after.pages("databases") == {0: 100, 1: 0}
    assert after.driver("databases") == "Kernel"

    other_boot = records.PageRecords(connection, boot_id="two")
    assert other_boot.pools() == {}
    assert other_boot.driver("databases") is None
    assert other_boot.ledger(PAGE).strangers is None
    connection.close()


def test_a_pool_that_is_found_again_takes_its_pages_out_of_the_others(
    tmp_path: pathlib.Path,
) -> None:
    connection = database.open_database(tmp_path / "som.db")
    known = records.PageRecords(connection, boot_id="one")
    found = accounts.Found(total=7 + 100 + 50, nodes={0: 7 + 100 + 50, 1: 0})
    for pool, pages in (("a", 100), ("b", 50)):
        known.add(pool, PAGE, {0: pages, 1: 0}, driver="HugeTLBFS")
        settled = accounts.settle(found, known.ledger(PAGE))
        assert not settled.missing
        known.save(PAGE, settled.ledger)
    assert known.ledger(PAGE).strangers == {0: 7, 1: 0}
    assert known.pages("a") == {0: 100, 1: 0}
    assert known.pages("b") == {0: 50, 1: 0}
    connection.close()


def test_the_records_of_the_first_version_are_read(tmp_path: pathlib.Path) -> None:
    connection = database.open_database(tmp_path / "som.db")
    for node, pages in ((0, 4), (1, 3)):
        connection.execute("INSERT INTO foreign_pages VALUES (?, ?, 'one', ?)", (PAGE, node, pages))
        connection.execute("INSERT INTO pool_pages VALUES ('a', ?, ?, 'one', 9, 9)", (PAGE, node))
    known = records.PageRecords(connection, boot_id="one")
    assert known.driver("a") == "HugeTLBFS"
    ledger = known.ledger(PAGE)
    share = accounts.Share({0: 9, 1: 9}, {0: 9, 1: 9})
    assert ledger == accounts.Ledger({0: 4, 1: 3}, {"a": share}, setting=7)
    connection.close()


def test_others_pages_are_forgotten_with_the_last_pool_of_their_size(
    tmp_path: pathlib.Path,
) -> None:
    connection = database.open_database(tmp_path / "som.db")
    known = records.PageRecords(connection, boot_id="one")
    for pool in ("a", "b"):
        known.add(pool, PAGE, {0: 0}, driver="HugeTLBFS")
    known.save(PAGE, accounts.Ledger({0: 7}, known.ledger(PAGE).pools, setting=7))

    known.forget("a")
    assert known.ledger(PAGE).strangers == {0: 7}
    known.forget("b")
    assert known.ledger(PAGE).strangers is None
    connection.close()


def test_who_reads_while_they_are_written_never_finds_a_pool_without_its_pages(
    tmp_path: pathlib.Path,
) -> None:
    connection = database.open_database(tmp_path / "som.db")
    connection.execute("PRAGMA synchronous = OFF")
    known = records.PageRecords(connection, boot_id="one")
    known.add("a", PAGE, {0: 4, 1: 4}, driver="HugeTLBFS")
    ledgers = [
        accounts.Ledger({0: 1, 1: 1}, {"a": accounts.Share(nodes, nodes)})
        for nodes in ({0: 4, 1: 4}, {0: 5, 1: 3})
    ]
    written = threading.Event()

    def write() -> None:
        for number in range(400):
            known.save(PAGE, ledgers[number % 2])
        written.set()

    writer = threading.Thread(target=write)
    writer.start()
    found = set()
    while not written.is_set():
        found.add(frozenset(known.pages("a")))
    writer.join()
    connection.close()
    assert found == {frozenset({0, 1})}


def test_a_numa_node_that_is_gone_is_forgotten(tmp_path: pathlib.Path) -> None:
    connection = database.open_database(tmp_path / "som.db")
    known = records.PageRecords(connection, boot_id="one")
    known.add("a", PAGE, {0: 4, 1: 4}, driver="HugeTLBFS")
    ledger = accounts.Ledger({0: 1}, {"a": accounts.Share({0: 4}, {0: 4})}, setting=1)
    known.save(PAGE, ledger)
    assert known.ledger(PAGE) == ledger
    connection.close()
