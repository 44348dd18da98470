"""Leases and their starts: answered from memory, and on the disk before they change there.

The agent is the only one of its node, so what it has read at its start stays true. A write is a
durable transaction first; one that fails changes nothing, neither there nor here.
"""

import dataclasses
import sqlite3
from collections.abc import Iterator
from typing import Any, Final

from som_api import v1alpha1
from som_device_plugin import changes, database, seams
from som_device_plugin.leases import state

_LOAD_LEASES: Final = """
SELECT lease_id, ticket, named_order, namespace, pod, container, uid, unit, size_bytes,
       ended, keep_on_restart, last_number FROM leases ORDER BY named_order
"""
_LOAD_STARTS: Final = """
SELECT lease_id, number, pool, slot, size_bytes, page_bytes, driver, preferred_node,
       state, boot_id, told_at_s FROM starts ORDER BY lease_id, number
"""
_WRITE_LEASE: Final = """
INSERT OR REPLACE INTO leases
      (lease_id, ticket, named_order, namespace, pod, container, uid, unit, size_bytes,
       ended, keep_on_restart, last_number)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_WRITE_START: Final = """
INSERT INTO starts
      (lease_id, number, pool, slot, size_bytes, page_bytes, driver, preferred_node,
       state, boot_id, told_at_s)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


class LeaseStore:
    """All leases and starts of the node; the memory of the agent across crashes."""

    def __init__(self, connection: sqlite3.Connection, changed: changes.Changes) -> None:
        self._db = connection
        self._changed = changed
        self._leases = {lease.lease_id: lease for lease in _load(connection)}

    def leases(self) -> list[state.Lease]:
        """All leases with their starts, oldest first."""
        return list(self._leases.values())

    def lease(self, lease_id: seams.LeaseId) -> state.Lease | None:
        """The lease of this id, or None."""
        return self._leases.get(lease_id)

    def of_ticket(self, ticket: seams.Ticket) -> list[state.Lease]:
        """The leases of `ticket` that have not ended, oldest first."""
        return [each for each in self.leases() if each.ticket == ticket and not each.ended]

    def slots(self, pool: str) -> frozenset[int]:
        """The slots of `pool` that starts name."""
        starts = (record.start for lease in self.leases() for record in lease.starts)
        return frozenset(start.slot for start in starts if start.pool == pool)

    def name(self, *, lease_id: seams.LeaseId, ticket: seams.Ticket) -> None:
        """Record a new lease for `ticket`; those of it without a start hold nothing and end."""
        order = 1 + max((each.named_order for each in self.leases()), default=0)
        replaced = (each for each in self.of_ticket(ticket) if not each.starts)
        self._write(
            *(dataclasses.replace(each, ended=True) for each in replaced),
            state.Lease(lease_id, ticket, order),
        )

    def bind(self, bound: state.Lease) -> None:
        """Record whose lease this is and how much it is to hold; the first binding stands."""
        lease = self.lease(bound.lease_id)
        if lease is not None and lease.owner is None:
            self._write(
                dataclasses.replace(
                    lease,
                    owner=bound.owner,
                    request=bound.request,
                    keep_on_restart=bound.keep_on_restart,
                )
            )

    def add_start(self, start: seams.Start, *, boot_id: str) -> state.StartRecord:
        """Record the intention to build `start`, before anything is taken."""
        lease = self._leases[start.lease_id]
        record = state.StartRecord(start, state.State.BUILDING, boot_id)
        self._write(
            dataclasses.replace(lease, last_number=start.number, starts=(*lease.starts, record))
        )
        return record

    def set_state(self, start: seams.Start, new: state.State, *, now_s: float) -> None:
        """Record where `start` is, from `now_s` (UNIX time) on."""
        lease = self._leases[start.lease_id]
        told_at_s = now_s if new is state.State.DELIVERED else None
        starts = (
            dataclasses.replace(each, state=new, told_at_s=told_at_s or each.told_at_s)
            if each.start == start
            else each
            for each in lease.starts
        )
        self._write(dataclasses.replace(lease, starts=tuple(starts)))

    def end(self, lease_id: seams.LeaseId) -> None:
        """Record that both proofs were seen: the lease has no owner any more."""
        self._write(dataclasses.replace(self._leases[lease_id], ended=True))

    def forget_start(self, start: seams.Start) -> None:
        """Remove a start that holds nothing, if it is there; its slot may be used again."""
        if lease := self.lease(start.lease_id):
            left = tuple(each for each in lease.starts if each.start != start)
            self._write(dataclasses.replace(lease, starts=left))

    def forget_ended(self, lease_id: seams.LeaseId) -> None:
        """Remove a lease that is over, unless it has a start after all."""
        lease = self.lease(lease_id)
        if lease is not None and not lease.starts:
            with database.transaction(self._db):
                self._db.execute("DELETE FROM leases WHERE lease_id = ?", (lease_id,))
            del self._leases[lease_id]
            self._changed.ring()

    def _write(self, *leases: state.Lease) -> None:
        """`leases` as they are now: on the disk, then in memory."""
        with database.transaction(self._db):
            for lease in leases:
                self._db.execute(_WRITE_LEASE, _row(lease))
                self._db.execute("DELETE FROM starts WHERE lease_id = ?", (lease.lease_id,))
                self._db.executemany(_WRITE_START, map(_start_row, lease.starts))
        for lease in leases:
            self._leases[lease.lease_id] = lease
        self._changed.ring()


def _load(connection: sqlite3.Connection) -> Iterator[state.Lease]:
    """What earlier agents have left, oldest first."""
    starts: dict[str, list[state.StartRecord]] = {}
    for *start, now, boot_id, told_at_s in database.read(connection, _LOAD_STARTS):
        record = state.StartRecord(seams.Start(*start), state.State(now), boot_id, told_at_s)
        starts.setdefault(start[0], []).append(record)
    for row in database.read(connection, _LOAD_LEASES):
        yield _lease(row, tuple(starts.get(row[0], ())))


def _row(lease: state.Lease) -> tuple[object, ...]:
    owner, request = lease.owner, lease.request
    return (
        *(lease.lease_id, lease.ticket, lease.named_order),
        *((*owner.names, owner.uid) if owner else (None,) * 4),
        *((request.unit, request.size_bytes) if request else (None,) * 2),
        *(lease.ended, lease.keep_on_restart, lease.last_number),
    )


def _start_row(record: state.StartRecord) -> tuple[object, ...]:
    start = dataclasses.astuple(record.start)
    return (*start, record.state.value, record.boot_id, record.told_at_s)


def _lease(row: tuple[Any, ...], starts: tuple[state.StartRecord, ...]) -> state.Lease:
    lease_id, ticket, order, namespace, pod, container, uid, *rest = row
    unit, size_bytes, ended, keep, last_number = rest
    owner = request = None
    if uid is not None:
        owner = seams.Owner(namespace, pod, container, uid)
        count = size_bytes // v1alpha1.UNIT_BYTES[unit]
        request = seams.ContainerRequest(container, unit, count)
    return state.Lease(
        *(lease_id, ticket, order, owner, request, bool(ended), bool(keep), last_number, starts)
    )
