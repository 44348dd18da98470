"""What the HugeTLB source remembers: others' pages and each pool's, per page size and node.

And which driver keeps the pages of a pool.
"""

import json
import sqlite3
from collections.abc import Mapping
from typing import Final

from som_device_plugin import database
from som_device_plugin.sources.hugetlb import accounts

_FIRST_DRIVER: Final = "HugeTLBFS"
"""Of pools that were on record before drivers were."""

_SETTING: Final = -1
"""In the place of a node in foreign_pages: others' own setting, of the whole machine."""


class PageRecords:
    """The tables foreign_pages, pool_pages and page_drivers of this boot: no page outlives it."""

    def __init__(self, connection: sqlite3.Connection, *, boot_id: str) -> None:
        self._db = connection
        self._boot_id = boot_id
        with database.transaction(self._db):
            self._db.execute("DELETE FROM foreign_pages WHERE boot_id != ?", (boot_id,))
            self._db.execute("DELETE FROM pool_pages WHERE boot_id != ?", (boot_id,))
            self._forget_drivers()

    def pools(self) -> dict[str, int]:
        """Pool -> its page size."""
        return dict(database.read(self._db, "SELECT DISTINCT pool, page_bytes FROM pool_pages"))

    def driver(self, pool: str) -> str | None:
        """Which driver keeps the pages of `pool`; None: it is not known."""
        query: Final = (
            "SELECT DISTINCT coalesce(driver, ?)"
            " FROM pool_pages LEFT JOIN page_drivers USING (pool) WHERE pool = ?"
        )
        rows = database.read(self._db, query, (_FIRST_DRIVER, pool))
        return rows[0][0] if rows else None

    def pages(self, pool: str) -> dict[int, int]:
        """Node -> pages of the pool."""
        query: Final = "SELECT node, pages FROM pool_pages WHERE pool = ?"
        return dict(database.read(self._db, query, (pool,)))

    def ledger(self, page_bytes: int) -> accounts.Ledger:
        """Everything on record of one page size; the pools in the order of their names."""
        strangers: dict[int, int] = dict(
            database.read(
                self._db,
                "SELECT node, pages FROM foreign_pages WHERE page_bytes = ?",
                (page_bytes,),
            )
        )
        # A store of som 0.1 has no setting.
        setting = strangers.pop(_SETTING, sum(strangers.values()))
        pages: dict[str, dict[int, int]] = {}
        intended: dict[str, dict[int, int]] = {}
        for pool, node, has, intends in database.read(
            self._db,
            "SELECT pool, node, pages, intended_pages FROM pool_pages"
            " WHERE page_bytes = ? ORDER BY pool, node",
            (page_bytes,),
        ):
            pages.setdefault(pool, {})[node] = has
            intended.setdefault(pool, {})[node] = intends
        return accounts.Ledger(
            strangers=strangers or None,
            pools={pool: accounts.Share(pages[pool], intended[pool]) for pool in pages},
            setting=setting,
        )

    def save(self, page_bytes: int, ledger: accounts.Ledger) -> None:
        """Put `ledger` in the place of what was on record of this page size.

        Row by row: another thread that reads meanwhile finds each pool with its pages.
        """
        strangers = {**(ledger.strangers or {}), _SETTING: ledger.setting}
        with database.transaction(self._db):
            self._db.executemany(
                "INSERT OR REPLACE INTO foreign_pages (page_bytes, node, boot_id, pages)"
                " VALUES (?, ?, ?, ?)",
                [(page_bytes, node, self._boot_id, pages) for node, pages in strangers.items()],
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO pool_pages"
                " (pool, page_bytes, node, boot_id, pages, intended_pages)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (pool, page_bytes, node, self._boot_id, pages, share.intended[node])
                    for pool, share in ledger.pools.items()
                    for node, pages in share.pages.items()
                ],
            )
            for table in ("foreign_pages", "pool_pages"):
                self._db.execute(
                    f"DELETE FROM {table} WHERE page_bytes = ?"
                    " AND node NOT IN (SELECT value FROM json_each(?))",
                    (page_bytes, json.dumps(list(strangers))),
                )

    def add(self, pool: str, page_bytes: int, found: Mapping[int, int], *, driver: str) -> None:
        """Know `pool` from now on, on nodes where it was not known with the pages found there.

        They were taken for others' until now.
        """
        with database.transaction(self._db):
            self._db.execute("INSERT OR IGNORE INTO page_drivers VALUES (?, ?)", (pool, driver))
            self._db.executemany(
                "INSERT OR IGNORE INTO pool_pages"
                " (pool, page_bytes, node, boot_id, pages, intended_pages)"
                " VALUES (?1, ?2, ?3, ?4, ?5, ?5)",
                [(pool, page_bytes, node, self._boot_id, pages) for node, pages in found.items()],
            )
            self._db.executemany(
                "UPDATE foreign_pages SET pages = max(pages - ?, 0)"
                " WHERE page_bytes = ? AND node = ?",
                [(pages, page_bytes, node) for node, pages in found.items()],
            )

    def intend(self, pool: str, page_bytes: int, node: int, pages: int) -> None:
        """Record that `pool` is about to have `pages` on `node`, before it is tried."""
        with database.transaction(self._db):
            self._db.execute(
                "UPDATE pool_pages SET intended_pages = ?"
                " WHERE pool = ? AND page_bytes = ? AND node = ?",
                (pages, pool, page_bytes, node),
            )

    def forget(self, pool: str) -> None:
        """The pool is gone; so are the records of others' pages of sizes that no pool has."""
        with database.transaction(self._db):
            self._db.execute("DELETE FROM pool_pages WHERE pool = ?", (pool,))
            self._db.execute(
                "DELETE FROM foreign_pages WHERE page_bytes NOT IN"
                " (SELECT page_bytes FROM pool_pages)"
            )
            self._forget_drivers()

    def _forget_drivers(self) -> None:
        self._db.execute("DELETE FROM page_drivers WHERE pool NOT IN (SELECT pool FROM pool_pages)")
