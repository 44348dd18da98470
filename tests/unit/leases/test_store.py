"""The lease store: what it answers from memory is what the next agent reads from the disk."""

import contextlib
import dataclasses
import pathlib
import sqlite3

import hypothesis
import pytest
from hypothesis import strategies

from som_api import v1alpha1
from som_device_plugin import changes, database, seams
from som_device_plugin.leases import state, store
from unit.leases.worlds import World

WRITES = [
    "name",
    "bind",
    "add_start",
    *["set_state"] * 2,
    "set_used",
    "keep",
    "end",
    "forget_start",
    "forget",
]
STEPS = strategies.tuples(
    strategies.sampled_from(WRITES),
    strategies.integers(0, 11),
    strategies.sampled_from([99, 99, 0, 1, 2, 3, 4]),
)


class SmallDisk(sqlite3.Connection):
    """A connection whose disk has room for so many more statements."""

    statements_left = 99

    def execute(self, sql: str, parameters: object = (), /) -> sqlite3.Cursor:
        self._take_room(sql)
        return super().execute(sql, parameters)  # type: ignore[arg-type]

    def executemany(self, sql: str, parameters: object, /) -> sqlite3.Cursor:
        self._take_room(sql)
        return super().executemany(sql, parameters)  # type: ignore[arg-type]

    def _take_room(self, sql: str) -> None:
        self.statements_left -= 1
        if self.statements_left < 0 and sql != "ROLLBACK":
            raise sqlite3.OperationalError("database or disk is full")


def write(leases: store.LeaseStore, what: str, number: int) -> None:
    """One write to one of the leases."""
    known = leases.leases()
    if what == "name" or not known:
        ticket = seams.Ticket(f"n0-{number % 3}")
        order = max((lease.named_order for lease in known), default=0)
        return leases.name(lease_id=seams.LeaseId(f"{number}-{order}"), ticket=ticket)
    lease = known[number % len(known)]
    records = [record for lease in known for record in lease.starts]
    match what:
        case "bind":
            owner = seams.Owner("shop", f"db-{number}", "main", seams.PodUid(f"uid-{number}"))
            unit: v1alpha1.Unit = "1Gi" if number % 2 else "2Mi"
            preload = "/usr/lib/som/libsom.so" if number % 3 else ""
            request = seams.ContainerRequest(
                *("main", unit, 1 + number, preload), is_movable=number % 5 > 2
            )
            keep = number > 5
            leases.bind(
                dataclasses.replace(
                    lease,
                    owner=owner,
                    request=request,
                    keep_on_restart=keep,
                    keep_s=60.0 * number,
                    lineage="set" if keep else "",
                )
            )
        case "add_start":
            start = seams.Start(
                *(lease.lease_id, lease.last_number + 1, "pool", number, 8 << 20, 2 << 20, "Fake"),
                preferred_node=number if number < 2 else None,
            )
            leases.add_start(start, boot_id="boot")
        case "set_state" if records:
            start = records[number % len(records)].start
            leases.set_state(start, list(state.State)[number % len(state.State)], now_s=number)
        case "set_used" if records:
            leases.set_used(records[number % len(records)].start)
        case "keep" if lease.live:
            leases.keep(lease.lease_id, lease.live, until_s=number)
        case "end":
            leases.end(lease.lease_id)
        case "forget_start" if records:
            leases.forget_start(records[number % len(records)].start)
        case "forget":
            leases.forget_ended(lease.lease_id)
    return None


@hypothesis.given(steps=strategies.lists(STEPS, max_size=25))
def test_memory_is_what_a_new_agent_reads_whichever_writes_failed(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
) -> None:
    path: pathlib.Path = tmp_path_factory.mktemp("store") / "som.db"
    with (
        contextlib.closing(database.open_database(path)) as reader,
        contextlib.closing(sqlite3.connect(path, isolation_level=None, factory=SmallDisk)) as disk,
    ):
        disk.execute("PRAGMA synchronous = OFF")
        leases = store.LeaseStore(disk, changes.Changes())
        for what, number, room in steps:
            before = leases.leases()
            disk.statements_left = room
            try:
                write(leases, what, number)
            except database.DatabaseError:
                assert leases.leases() == before
            assert store.LeaseStore(reader, changes.Changes()).leases() == leases.leases()


async def test_a_start_of_a_container_reads_nothing_from_the_disk(world: World) -> None:
    pod = await world.admit("db", 4)
    statements: list[str] = []
    world.connection.set_trace_callback(statements.append)
    assert await world.start_container(pod)
    assert await world.start_container(pod), "and neither does a restart"
    assert [each for each in statements if each.lstrip().startswith("SELECT")] == []
    assert statements.count("COMMIT") == 4 + 5
