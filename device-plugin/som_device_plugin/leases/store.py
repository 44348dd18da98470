"""Leases and their starts in the agent's store: each method a durable transaction or a read."""

import sqlite3
import time
from typing import Any, Final, LiteralString

from som_api import v1alpha1
from som_device_plugin import database, seams
from som_device_plugin.leases import decide, state


class LeaseStore:
    """The rows of leases and starts; the memory of the agent across crashes."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def leases(self) -> list[state.Lease]:
        """All leases with their starts, oldest first."""
        return self._read("", ())

    def lease(self, lease_id: seams.LeaseId) -> state.Lease | None:
        """The lease of this id, or None."""
        return next(iter(self._read("WHERE lease_id = ?", (lease_id,))), None)

    def of_ticket(self, ticket: seams.Ticket) -> list[state.Lease]:
        """The leases of `ticket` that have not ended, oldest first."""
        of_ticket: Final = "WHERE lease_id IN (SELECT lease_id FROM leases WHERE ticket = ?)"
        return [lease for lease in self._read(of_ticket, (ticket,)) if not lease.ended]

    def slots(self, pool: str) -> frozenset[int]:
        """The slots of `pool` that starts name."""
        rows = database.read(self._db, "SELECT slot FROM starts WHERE pool = ?", (pool,))
        return frozenset(slot for (slot,) in rows)

    def _read(self, which: LiteralString, parameters: tuple[str, ...]) -> list[state.Lease]:
        starts: dict[str, list[state.StartRecord]] = {}
        for row in database.read(
            self._db,
            "SELECT lease_id, number, pool, slot, size_bytes, page_bytes, preferred_node,"
            f" state, boot_id, told_at_s FROM starts {which} ORDER BY lease_id, number",
            parameters,
        ):
            start = seams.Start(*row[:7])
            starts.setdefault(row[0], []).append(
                state.StartRecord(start, state.State(row[7]), boot_id=row[8], told_at_s=row[9])
            )
        return [
            _lease(row, tuple(starts.get(row[0], ())))
            for row in database.read(
                self._db,
                "SELECT lease_id, ticket, named_order, namespace, pod, container, uid, unit,"
                " size_bytes, ended, keep_on_restart, last_number"
                f" FROM leases {which} ORDER BY named_order",
                parameters,
            )
        ]

    def name(self, *, lease_id: seams.LeaseId, ticket: seams.Ticket) -> None:
        """Record a new lease for `ticket`; those of it without a start hold nothing and end."""
        with database.transaction(self._db):
            self._db.execute(
                "UPDATE leases SET ended = 1 WHERE ticket = ? AND lease_id NOT IN"
                " (SELECT lease_id FROM starts)",
                (ticket,),
            )
            self._db.execute(
                "INSERT INTO leases (lease_id, ticket, named_order)"
                " SELECT ?, ?, coalesce(max(named_order), 0) + 1 FROM leases",
                (lease_id, ticket),
            )

    def bind(self, lease_id: seams.LeaseId, bound: decide.Bound) -> None:
        """Record whose lease this is and how much it is to hold."""
        owner, request = bound.owner, bound.request
        with database.transaction(self._db):
            self._db.execute(
                "UPDATE leases SET namespace = ?, pod = ?, container = ?, uid = ?, unit = ?,"
                " size_bytes = ?, keep_on_restart = ? WHERE lease_id = ? AND uid IS NULL",
                (
                    owner.namespace,
                    owner.pod,
                    owner.container,
                    owner.uid,
                    request.unit,
                    request.size_bytes,
                    bound.keep_on_restart,
                    lease_id,
                ),
            )

    def add_start(self, start: seams.Start, *, boot_id: str) -> None:
        """Record the intention to build `start`, before anything is taken."""
        with database.transaction(self._db):
            self._db.execute(
                "INSERT INTO starts (lease_id, number, pool, slot, size_bytes, page_bytes,"
                " preferred_node, state, boot_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    start.lease_id,
                    start.number,
                    start.pool,
                    start.slot,
                    start.size_bytes,
                    start.page_bytes,
                    start.preferred_node,
                    state.State.BUILDING.value,
                    boot_id,
                ),
            )
            self._db.execute(
                "UPDATE leases SET last_number = ? WHERE lease_id = ?",
                (start.number, start.lease_id),
            )

    def set_state(self, start: seams.Start, new: state.State) -> None:
        """Record where `start` is."""
        with database.transaction(self._db):
            self._db.execute(
                "UPDATE starts SET state = ?, told_at_s = coalesce(?, told_at_s)"
                " WHERE lease_id = ? AND number = ?",
                (
                    new.value,
                    time.time() if new is state.State.DELIVERED else None,
                    start.lease_id,
                    start.number,
                ),
            )

    def end(self, lease_id: seams.LeaseId) -> None:
        """Record that both proofs were seen: the lease has no owner any more."""
        with database.transaction(self._db):
            self._db.execute("UPDATE leases SET ended = 1 WHERE lease_id = ?", (lease_id,))

    def forget_start(self, start: seams.Start) -> None:
        """Remove a start that holds nothing; its slot may be used again."""
        with database.transaction(self._db):
            self._db.execute(
                "DELETE FROM starts WHERE lease_id = ? AND number = ?",
                (start.lease_id, start.number),
            )

    def over(self, *, listed: frozenset[seams.Ticket] | None) -> list[seams.LeaseId]:
        """Ended leases that have no start left.

        A lease that was replaced before it ever had a start stays while kubelet lists its
        ticket (`listed`; None: unknown), for a container may still be about to mount its path.
        """
        return [
            lease.lease_id
            for lease in self.leases()
            if lease.ended
            and not lease.starts
            and (lease.last_number or (listed is not None and lease.ticket not in listed))
        ]

    def forget_ended(self, lease_id: seams.LeaseId) -> None:
        """Remove a lease that is over, unless it has a start after all."""
        with database.transaction(self._db):
            self._db.execute(
                "DELETE FROM leases WHERE lease_id = ?"
                " AND lease_id NOT IN (SELECT lease_id FROM starts)",
                (lease_id,),
            )


def _lease(row: tuple[Any, ...], starts: tuple[state.StartRecord, ...]) -> state.Lease:
    lease_id, ticket, order, namespace, pod, container, uid, *rest = row
    unit, size_bytes, ended, keep, last_number = rest
    owner = request = None
    if uid is not None:
        owner = seams.Owner(namespace, pod, container, seams.PodUid(uid))
        count = size_bytes // v1alpha1.UNIT_BYTES[unit]
        request = seams.ContainerRequest(name=container, unit=unit, count=count)
    return state.Lease(
        lease_id=seams.LeaseId(lease_id),
        ticket=seams.Ticket(ticket),
        named_order=order,
        owner=owner,
        request=request,
        ended=bool(ended),
        keep_on_restart=bool(keep),
        last_number=last_number,
        starts=starts,
    )
