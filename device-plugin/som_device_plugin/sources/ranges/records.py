"""What pools of physical ranges must undo: devices that were unbound, blocks that were carved.

Both are recorded before the act, of this boot: a reboot undoes them itself.
"""

import sqlite3
from collections.abc import Iterable
from typing import Final

from som_device_plugin import database

_ON_ADDING: Final = -1
"""In the place of a block's start: what the kernel does with memory that is added."""


class RangeRecords:
    """The tables unbound_devices and carved_blocks."""

    def __init__(self, connection: sqlite3.Connection, *, boot_id: str) -> None:
        self._db = connection
        self._boot_id = boot_id
        with database.transaction(self._db):
            self._db.execute("DELETE FROM unbound_devices WHERE boot_id != ?", (boot_id,))
            self._db.execute("DELETE FROM carved_blocks WHERE boot_id != ?", (boot_id,))

    def unbound(self, pool: str) -> dict[str, str]:
        """Device -> the driver that it had, "" for none."""
        query = "SELECT device, driver FROM unbound_devices WHERE pool = ? ORDER BY device"
        return dict(database.read(self._db, query, (pool,)))

    def add_unbound(self, pool: str, device: str, driver: str) -> None:
        """The device is about to be unbound for `pool`; one that is known keeps its driver."""
        with database.transaction(self._db):
            self._db.execute(
                "INSERT OR IGNORE INTO unbound_devices (device, pool, driver, boot_id)"
                " VALUES (?, ?, ?, ?)",
                (device, pool, driver, self._boot_id),
            )

    def forget_unbound(self, device: str) -> None:
        """The device is as it was."""
        with database.transaction(self._db):
            self._db.execute("DELETE FROM unbound_devices WHERE device = ?", (device,))

    def add_on_adding(self, what: str) -> None:
        """The kernel is about to be told to leave added memory off line."""
        self.add_carved("", [(_ON_ADDING, what)])

    def carved(self, pool: str) -> dict[int, str]:
        """Start of a block -> its zone; "" where it was in several."""
        query = "SELECT start, zone FROM carved_blocks WHERE pool = ? ORDER BY start"
        return dict(database.read(self._db, query, (pool,)))

    def add_carved(self, pool: str, zones: Iterable[tuple[int, str]]) -> None:
        """Blocks (start, zone) are about to be carved for `pool`."""
        with database.transaction(self._db):
            self._db.executemany(
                "INSERT OR REPLACE INTO carved_blocks (start, pool, zone, boot_id)"
                " VALUES (?, ?, ?, ?)",
                [(start, pool, zone, self._boot_id) for start, zone in zones],
            )

    def on_adding(self) -> str:
        """What the kernel did with added memory before it was told to leave it off line; ""."""
        query = "SELECT zone FROM carved_blocks WHERE start = ?"
        return next((what for (what,) in database.read(self._db, query, (_ON_ADDING,))), "")

    def forget_carved(self, start: int = _ON_ADDING) -> None:
        """The block, or what the kernel does with added memory, is as it was."""
        with database.transaction(self._db):
            self._db.execute("DELETE FROM carved_blocks WHERE start = ?", (start,))
