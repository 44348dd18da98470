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
from som_device_plugin.leases import spares, state

_LOAD_LEASES: Final = """
SELECT lease_id, ticket, named_order, namespace, pod, container, uid, unit, size_bytes,
       ended, keep_on_restart, preload, last_number, movable, keep_s, lineage, kept_until_s
FROM leases ORDER BY named_order
"""
_LOAD_STARTS: Final = """
SELECT lease_id, number, pool, slot, size_bytes, page_bytes, driver, preferred_node,
       built_as, state, boot_id, told_at_s, used FROM starts ORDER BY lease_id, number
"""
_WRITE_LEASE: Final = """
INSERT OR REPLACE INTO leases
      (lease_id, ticket, named_order, namespace, pod, container, uid, unit, size_bytes,
       ended, keep_on_restart, preload, last_number, movable, keep_s, lineage, kept_until_s)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_WRITE_START: Final = """
INSERT INTO starts
      (lease_id, number, pool, slot, size_bytes, page_bytes, driver, preferred_node,
       built_as, state, boot_id, told_at_s, used)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_LOAD_ASKED: Final = "SELECT pool, size_bytes, node, at_once FROM asked ORDER BY pool, number"
_WRITE_ASKED: Final = """
INSERT INTO asked (pool, number, size_bytes, node, at_once) VALUES (?, ?, ?, ?, ?)
"""


class LeaseStore:
    """All leases and starts of the node; the memory of the agent across crashes."""

    def __init__(self, connection: sqlite3.Connection, changed: changes.Changes) -> None:
        self._db = connection
        self._changed = changed
        self._leases = {lease.lease_id: lease for lease in _load(connection)}
        self._asked: dict[str, spares.History] = {}
        for pool, size_bytes, node, at_once in database.read(connection, _LOAD_ASKED):
            past = (spares.Wish(size_bytes, node), at_once)
            self._asked[pool] = (*self._asked.get(pool, ()), past)

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

    def asked(self, pool: str) -> spares.History:
        """What the last starts of `pool` asked for."""
        return self._asked.get(pool, ())

    def name(self, *, lease_id: seams.LeaseId, ticket: seams.Ticket) -> None:
        """Record a new lease for `ticket`; those of it without a start hold nothing and end."""
        replaced = (each for each in self.of_ticket(ticket) if not each.starts)
        self._write(
            *(dataclasses.replace(each, ended=True) for each in replaced),
            state.Lease(lease_id, ticket, self._next_order()),
        )

    def _next_order(self) -> int:
        return 1 + max((each.named_order for each in self.leases()), default=0)

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
                    keep_s=bound.keep_s,
                    lineage=bound.lineage,
                )
            )

    def add_start(self, start: seams.Start, *, boot_id: str) -> state.StartRecord:
        """Record the intention to build `start`, before anything is taken."""
        record = state.StartRecord(start, state.State.BUILDING, boot_id)
        self._write(_with(self._leases[start.lease_id], record), history=self._with_asked(start))
        return record

    def add_spare(self, start: seams.Start, *, boot_id: str) -> state.StartRecord:
        """Record the intention to build `start` ahead, with a lease that is no container's."""
        lease = state.Lease(start.lease_id, seams.Ticket(""), self._next_order())
        record = state.StartRecord(start, state.State.BUILDING, boot_id)
        self._write(_with(lease, record))
        return record

    def adopt(
        self, spare_id: seams.LeaseId, lease_id: seams.LeaseId, *, size_bytes: int
    ) -> state.StartRecord:
        """Record that the spare's start is the lease's next one, to be cut to `size_bytes`."""
        lease, giver = self._leases[lease_id], self._leases[spare_id]
        (spare,) = giver.starts
        start = dataclasses.replace(
            spare.start,
            lease_id=lease_id,
            number=lease.last_number + 1,
            size_bytes=size_bytes,
            built_as=spare.start.name,
        )
        record = state.StartRecord(start, state.State.BUILDING, spare.boot_id, used=spare.used)
        written, gone = [_with(lease, record)], None
        if start.built[0] == spare_id:
            # Its path is the start's from now on.
            gone = spare_id
        else:
            written.append(dataclasses.replace(giver, ended=True, starts=()))
        self._write(*written, history=self._with_asked(start), gone=gone)
        return record

    def keep(self, lease_id: seams.LeaseId, record: state.StartRecord, *, until_s: float) -> None:
        """Record that the lease's owner is gone, and left `record` for its successor."""
        self._write(
            dataclasses.replace(
                self._leases[lease_id],
                ticket=seams.Ticket(""),
                starts=(record,),
                kept_until_s=until_s,
            )
        )

    def set_state(self, start: seams.Start, new: state.State, *, now_s: float) -> None:
        """Record where `start` is, from `now_s` (UNIX time) on."""
        told = {"told_at_s": now_s} if new is state.State.DELIVERED else {}
        self._change(start, state=new, **told)

    def set_used(self, start: seams.Start) -> None:
        """Record that a container may write to `start`, before it can."""
        self._change(start, used=True)

    def _change(self, start: seams.Start, **fields: Any) -> None:
        """Record these `fields` of the start's record."""
        lease = self._leases[start.lease_id]
        starts = (
            dataclasses.replace(each, **fields) if each.start == start else each
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

    def _with_asked(self, start: seams.Start) -> tuple[str, spares.History]:
        """The history of the pool of `start`, with it."""
        wish = spares.Wish(start.size_bytes, start.preferred_node)
        others = (each.live for each in self.leases() if not each.is_spare)
        at_once = 1 + sum(
            other is not None
            and other.start.pool == start.pool
            and spares.Wish(other.start.size_bytes, other.start.preferred_node) == wish
            for other in others
        )
        return start.pool, spares.remember(self.asked(start.pool), wish, at_once)

    def _write(
        self,
        *leases: state.Lease,
        history: tuple[str, spares.History] | None = None,
        gone: seams.LeaseId | None = None,
    ) -> None:
        """`leases` as they are now, the `history` of a pool, and that one lease is `gone`.

        On the disk, then in memory.
        """
        with database.transaction(self._db):
            if gone is not None:
                self._db.execute("DELETE FROM starts WHERE lease_id = ?", (gone,))
                self._db.execute("DELETE FROM leases WHERE lease_id = ?", (gone,))
            for lease in leases:
                self._db.execute(_WRITE_LEASE, _row(lease))
                self._db.execute("DELETE FROM starts WHERE lease_id = ?", (lease.lease_id,))
                self._db.executemany(_WRITE_START, map(_start_row, lease.starts))
            if history:
                self._db.execute("DELETE FROM asked WHERE pool = ?", (history[0],))
                rows = enumerate(history[1])
                self._db.executemany(
                    _WRITE_ASKED,
                    [
                        (history[0], n, wish.size_bytes, wish.node, often)
                        for n, (wish, often) in rows
                    ],
                )
        if gone is not None:
            del self._leases[gone]
        for lease in leases:
            self._leases[lease.lease_id] = lease
        if history:
            self._asked[history[0]] = history[1]
        self._changed.ring()


def _load(connection: sqlite3.Connection) -> Iterator[state.Lease]:
    """What earlier agents have left, oldest first."""
    starts: dict[str, list[state.StartRecord]] = {}
    for *start, now, boot_id, told_at_s, used in database.read(connection, _LOAD_STARTS):
        record = state.StartRecord(
            seams.Start(*start), state.State(now), boot_id, told_at_s, bool(used)
        )
        starts.setdefault(start[0], []).append(record)
    for row in database.read(connection, _LOAD_LEASES):
        yield _lease(row, tuple(starts.get(row[0], ())))


def _with(lease: state.Lease, record: state.StartRecord) -> state.Lease:
    """`lease` with its next start."""
    return dataclasses.replace(
        lease, last_number=record.start.number, starts=(*lease.starts, record)
    )


def _row(lease: state.Lease) -> tuple[object, ...]:
    owner, request = lease.owner, lease.request
    return (
        *(lease.lease_id, lease.ticket, lease.named_order),
        *((*owner.names, owner.uid) if owner else (None,) * 4),
        *((request.unit, request.size_bytes) if request else (None,) * 2),
        *(lease.ended, lease.keep_on_restart, request.preload if request else ""),
        *(lease.last_number, bool(request and request.is_movable)),
        *(lease.keep_s, lease.lineage, lease.kept_until_s),
    )


def _start_row(record: state.StartRecord) -> tuple[object, ...]:
    start = dataclasses.astuple(record.start)
    return (*start, record.state.value, record.boot_id, record.told_at_s, record.used)


def _lease(row: tuple[Any, ...], starts: tuple[state.StartRecord, ...]) -> state.Lease:
    lease_id, ticket, order, namespace, pod, container, uid, *rest = row
    unit, size_bytes, ended, keep, preload, last_number, is_movable, *successor = rest
    owner = request = None
    if uid is not None:
        owner = seams.Owner(namespace, pod, container, uid)
        count = size_bytes // v1alpha1.UNIT_BYTES[unit]
        request = seams.ContainerRequest(
            container, unit, count, preload, is_movable=bool(is_movable)
        )
    return state.Lease(
        *(lease_id, ticket, order, owner, request, bool(ended), bool(keep), last_number, starts),
        *successor,
    )
