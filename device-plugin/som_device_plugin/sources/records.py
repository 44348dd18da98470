"""What the HugeTLB source remembers: others' pages and each pool's, per page size and node."""

import sqlite3
from collections.abc import Mapping

from som_device_plugin.leases import database
from som_device_plugin.sources import plan


class PageRecords:
    """The tables foreign_pages and pool_pages, of this boot: huge pages do not outlive one."""

    def __init__(self, connection: sqlite3.Connection, *, boot_id: str) -> None:
        self._db = connection
        self._boot_id = boot_id
        with database.transaction(self._db):
            self._db.execute("DELETE FROM foreign_pages WHERE boot_id != ?", (boot_id,))
            self._db.execute("DELETE FROM pool_pages WHERE boot_id != ?", (boot_id,))

    def pools(self) -> dict[str, int]:
        """Pool -> its page size."""
        return dict(self._db.execute("SELECT DISTINCT pool, page_bytes FROM pool_pages"))

    def pages(self, pool: str) -> dict[int, int]:
        """Node -> pages of the pool."""
        return dict(self._db.execute("SELECT node, pages FROM pool_pages WHERE pool = ?", (pool,)))

    def foreign(self, page_bytes: int, node: int) -> int | None:
        """Others' pages, None before the first look at this node."""
        row = self._db.execute(
            "SELECT pages FROM foreign_pages WHERE page_bytes = ? AND node = ?",
            (page_bytes, node),
        ).fetchone()
        return None if row is None else int(row[0])

    def shares(self, page_bytes: int, node: int) -> list[plan.Share]:
        """The pools' pages on a node, in the order of their names."""
        return [
            plan.Share(*row)
            for row in self._db.execute(
                "SELECT pool, pages, intended_pages FROM pool_pages"
                " WHERE page_bytes = ? AND node = ? ORDER BY pool",
                (page_bytes, node),
            )
        ]

    def save(self, page_bytes: int, node: int, settled: plan.Settled) -> None:
        """Record whose the pages of a node are."""
        with database.transaction(self._db):
            self._db.execute(
                "INSERT OR REPLACE INTO foreign_pages (page_bytes, node, boot_id, pages)"
                " VALUES (?, ?, ?, ?)",
                (page_bytes, node, self._boot_id, settled.foreign),
            )
            self._db.executemany(
                "UPDATE pool_pages SET pages = ?, intended_pages = ?"
                " WHERE pool = ? AND page_bytes = ? AND node = ?",
                [
                    (share.pages, share.intended, share.pool, page_bytes, node)
                    for share in settled.shares
                ],
            )

    def add(self, pool: str, page_bytes: int, found: Mapping[int, int]) -> None:
        """Know `pool` from now on, on nodes where it was not known with the pages found there.

        They were taken for others' until now.
        """
        with database.transaction(self._db):
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
