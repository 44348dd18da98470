"""This node's pools: follows the orders, keeps what the sources have, says who can serve.

Orders are kept in the store, so that an agent that restarts while the API server is away goes on
with the last ones it knew. A pool that is ordered away serves nobody new from that moment; its
memory goes back when its last start is free.

One pool after the other is brought to its order, with growing pauses while one is not there. A
newer order ends the step under way, which may take minutes, and the round begins again.
"""

import asyncio
import dataclasses
import enum
import logging
import random
import sqlite3
from collections.abc import Callable, Mapping
from typing import Final

import pydantic

from som_api import SomError, v1alpha1
from som_api.run import backoff, clock
from som_device_plugin import changes, database, loops, seams
from som_device_plugin.kubelet import setup

log = logging.getLogger(__name__)

CHECK_EVERY_S: Final = 10.0
"""How often the counters that others can write are looked at."""

RETRY_S: Final = 5.0
LONGEST_RETRY_S: Final = 300.0
"""Between tries to get what the kernel did not give."""


class State(enum.Enum):
    """Where a pool stands with its order."""

    RESERVING = "the order is being carried out"
    SETTLED = "the order was carried out as far as it can be now"
    REFUSED = "what is ordered may not be done"
    BLOCKED = "what is ordered must not be done now"
    RELEASING = "ordered away: its memory goes back"
    HELD = "ordered away, and its memory could not go back"
    KEPT = "ordered away, and its memory must not go back now"


_LEAVING: Final = frozenset({State.RELEASING, State.HELD, State.KEPT})


@dataclasses.dataclass(frozen=True)
class ActivePool:
    """A pool as it stands; `why`, with its reason in CamelCase, is what keeps it from its order.

    `moved` is what is ordered of it where that is another source or driver than `order`'s: they
    cannot take over its memory.
    """

    order: v1alpha1.NodePool
    driver: str
    reserved: seams.PoolReserved
    state: State = State.RESERVING
    reason: str = ""
    why: str = ""
    moved: v1alpha1.NodePool | None = None

    @property
    def name(self) -> str:
        return self.order.name

    @property
    def page_bytes(self) -> int:
        """Of the pages that it has; an order cannot change them."""
        return self.reserved.page_bytes or self.order.source.page_bytes

    @property
    def capacity_bytes(self) -> int:
        return self.reserved.capacity_bytes

    @property
    def free_bytes(self) -> int:
        return self.reserved.free_bytes

    @property
    def is_full(self) -> bool:
        """Whether everything that was ordered is there, and known to be."""
        return self.state is State.SETTLED and self.capacity_bytes == self.order.capacity

    @property
    def is_leaving(self) -> bool:
        """Whether it is ordered away."""
        return self.state in _LEAVING


class Pools:
    """The pools of this node, driven by orders. One writer: `run`."""

    def __init__(
        self,
        *,
        backend_of: Callable[[v1alpha1.NodePool], seams.Backend],
        connection: sqlite3.Connection,
        promised_bytes: Callable[[v1alpha1.Unit], int],
        read_setup: Callable[[], setup.Setup],
        reporter: seams.Reporter,
        changed: changes.Changes,
        time: clock.Clock,
    ) -> None:
        self._backend_of = backend_of
        self._db = connection
        self._promised_bytes = promised_bytes
        self._read_setup = read_setup
        self._reporter = reporter
        self._changed = changed
        self._time = time
        self._wake = asyncio.Event()
        self._round: asyncio.Timeout | None = None
        self._pauses = backoff.Backoff(
            jitter=random.Random(), first_s=RETRY_S, longest_s=LONGEST_RETRY_S
        )
        self._pools: dict[str, ActivePool] = {}
        self.generation: int | None = None
        self.setup = setup.Setup()
        self._load_orders()

    # Reading

    def pools(self) -> Mapping[str, ActivePool]:
        """All pools by name, the leaving ones included."""
        return self._pools

    @property
    def ready(self) -> bool:
        """Whether a new lease can be served: source, hold and driver stand."""
        return self.setup.is_kubelet_found and any(map(self.for_unit, v1alpha1.UNIT_BYTES))

    def for_unit(self, unit: v1alpha1.Unit) -> ActivePool | None:
        """The pool that feeds som.io/<unit>, if it stands."""
        feeding = (pool for pool in self._pools.values() if pool.order.unit == unit)
        return next((p for p in feeding if p.capacity_bytes and not p.is_leaving), None)

    # Orders

    def _load_orders(self) -> None:
        query: Final = "SELECT generation, leaving, spec FROM orders"
        for generation, *specs in database.read(self._db, query):
            try:
                read = [v1alpha1.SomNodeSpec.model_validate_json(spec) for spec in specs]
            except pydantic.ValidationError as error:
                fields = ", ".join(".".join(map(str, each["loc"])) for each in error.errors())
                raise database.DatabaseError(
                    f"the orders in the agent's store have {fields}, which this agent cannot read: "
                    "a newer one wrote them; run that version or newer"
                ) from error
            for spec in read:
                self._take_orders(generation, spec)

    def _take_orders(self, generation: int, spec: v1alpha1.SomNodeSpec) -> None:
        self.generation = generation
        ordered = {order.name: order for order in spec.pools}
        for name in self._pools.keys() - ordered.keys():
            if not self._pools[name].is_leaving:
                self._pools[name] = dataclasses.replace(self._pools[name], state=State.RELEASING)
        for name, order in ordered.items():
            known = self._pools.get(name)
            if known and _backend(known.order) != _backend(order):
                # Whether there is any memory to move, its source says.
                self._pools[name] = dataclasses.replace(
                    known, state=State.RESERVING, reason="", why="", moved=order
                )
            elif known is None or known.order != order or known.is_leaving or known.moved:
                reserved = known.reserved if known else seams.PoolReserved(name)
                driver = self._backend_of(order).driver.name
                self._pools[name] = ActivePool(order, driver, reserved)

    async def look(self) -> None:
        """Know what the pools have whose orders were stored, before anybody asks.

        Raises:
            SomError: the kernel or the store refused.
        """
        for pool in list(self._pools.values()):
            self._has(await self._source(pool).reserved(pool.name))

    def _source(self, pool: ActivePool) -> seams.Source:
        return self._backend_of(pool.order).source

    async def run(self, specs: seams.SpecSource) -> None:
        """Follow the orders and keep the counters right; runs until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(loops.repeat("orders", lambda: self._follow(specs), time=self._time))
            group.create_task(loops.repeat("pools", self._converge_once, time=self._time))
            group.create_task(loops.repeat("pools' check", self._check_once, time=self._time))

    async def _follow(self, specs: seams.SpecSource) -> None:
        loops.rest()
        async for generation, spec in specs.specs():
            loops.beat()
            await self._store_orders(generation, spec)
            self._take_orders(generation, spec)
            names = [order.name for order in spec.pools]
            log.info("orders taken", extra={"generation": generation, "pools": names})
            self._pauses.reset()
            self._begin_again()
            loops.rest()

    async def _store_orders(self, generation: int, spec: v1alpha1.SomNodeSpec) -> None:
        """Before anything is done about them; waits for a store that cannot be written."""
        ordered = {order.name: _backend(order) for order in spec.pools}
        # An agent that restarts must neither forget their memory nor reserve it again.
        leaving = v1alpha1.SomNodeSpec(
            pools=tuple(
                pool.order
                for pool in self._pools.values()
                if ordered.get(pool.name) != _backend(pool.order)
            )
        )
        while True:
            try:
                with database.transaction(self._db):
                    self._db.execute(
                        "INSERT OR REPLACE INTO orders (id, generation, spec, leaving)"
                        " VALUES (1, ?, ?, ?)",
                        (generation, spec.model_dump_json(), leaving.model_dump_json()),
                    )
            except database.DatabaseError as error:
                loops.failed("orders", error)
                loops.beat()
                await self._time.sleep(RETRY_S)
            else:
                return

    def touch(self) -> None:
        """Something was freed or ordered: look again now."""
        self._wake.set()

    def _begin_again(self) -> None:
        """The orders, or whether they may be carried out, have changed: end the step under way."""
        if self._round is not None and not self._round.expired():
            self._round.reschedule(0.0)
        self.touch()

    async def _converge_once(self) -> None:
        self._wake.clear()
        try:
            async with asyncio.timeout(None) as self._round:
                for pool in list(self._pools.values()):
                    await self._converge(pool)
        except TimeoutError:
            return
        finally:
            self._round = None
        wait_s = None
        if all(pool.is_full for pool in self._pools.values()):
            self._pauses.reset()
        else:
            wait_s = self._pauses.next_s()
            if any(pool.reason == seams.DriverNotLoaded.reason for pool in self._pools.values()):
                # Nothing tells that it is there now, and to look costs nothing.
                wait_s = min(wait_s, CHECK_EVERY_S)
        await loops.wait(self._wake, at_most_s=wait_s, time=self._time)

    async def _converge(self, pool: ActivePool) -> None:
        refused = State.HELD if pool.is_leaving else State.REFUSED
        step = self._let_go if pool.is_leaving else self._move if pool.moved else self._apply
        try:
            await step(pool)
        except SomError as error:
            log.warning("pool refused", extra={"pool": pool.name, "error": str(error)})
            self._become(pool, refused, reason=error.reason, why=str(error))
        except Exception as error:
            # One pool must not keep the others from what was ordered.
            loops.failed("pools", error, pool=pool.name)
            why = f"unexpected: {error!r}; the agent's log has the place; retrying"
            self._become(pool, refused, why=why)

    async def _apply(self, pool: ActivePool) -> None:
        source = self._source(pool)
        has = await source.reserved(pool.name)
        if pool.is_full and has.capacity_bytes == pool.capacity_bytes:
            return
        self._has(has)
        if blocked := await self._blocked(pool):
            if has.capacity_bytes != pool.order.capacity:
                self._become(pool, State.BLOCKED, reason=blocked.reason, why=blocked.message)
                return
        else:
            # The kernel may look for memory for minutes; a new agent would find it no sooner.
            loops.rest()
            has = await source.apply(
                pool.order,
                held_bytes=self._promised_bytes(pool.order.unit),
                on_progress=self._has,
            )
        self._has(has)
        self._become(pool, State.SETTLED)

    async def _move(self, pool: ActivePool) -> None:
        """To another source or driver: a pool without memory begins there, any other stays."""
        assert pool.moved is not None
        has = await self._source(pool).reserved(pool.name)
        self._has(has)
        if has.capacity_bytes or any(has.node_bytes.values()):
            source, driver = _backend(pool.order)
            to_source, to_driver = _backend(pool.moved)
            raise SomError(
                f"the pool has memory of source {source} with driver {driver}, which cannot become "
                f"that of source {to_source} with driver {to_driver}: delete the pool and make it "
                "again when its memory is back, or make another one"
            )
        await self._source(pool).release(pool.name)
        if self._stands(pool):
            self._pools[pool.name] = ActivePool(
                pool.moved,
                self._backend_of(pool.moved).driver.name,
                seams.PoolReserved(pool.name),
            )
            self.touch()
        self._changed.ring()

    async def _let_go(self, pool: ActivePool) -> None:
        if pool.capacity_bytes and (blocked := await self._blocked(pool)):
            self._become(pool, State.KEPT, reason=blocked.reason, why=blocked.message)
            return
        await self._source(pool).release(pool.name)
        log.info("pool released", extra={"pool": pool.name})
        if self._stands(pool):
            # Else it was ordered again meanwhile.
            del self._pools[pool.name]
        self._changed.ring()

    async def _check_once(self) -> None:
        await self._time.sleep(CHECK_EVERY_S)
        await self._look_at_setup()
        free = (pool for pool in self._pools.values() if not self._is_blocked(pool))
        for source in dict.fromkeys(map(self._source, free)):
            try:
                events, reserved = await source.check()
            except Exception as error:
                # One source must not keep the others from being looked at.
                loops.failed("pools' check", error)
                continue
            for event in events:
                await self._reporter.event(event)
            for has in reserved:
                self._has(has)
        # Pages that others added or took are reported, too.
        self._changed.ring()

    async def _blocked(self, pool: ActivePool) -> setup.Blocked | None:
        """Why `pool` must not change now, if so.

        Raises:
            SomError: that cannot be told.
        """
        await self._look_at_setup()
        return self._is_blocked(pool)

    def _is_blocked(self, pool: ActivePool) -> setup.Blocked | None:
        blocked = self.setup.blocked
        return blocked if blocked and blocked.holds_for(pool.order.source.kind) else None

    async def _look_at_setup(self) -> None:
        """Know kubelet's set-up as it is now.

        A step under way when that changes is ended, and orders are looked at again.

        Raises:
            SomError: that cannot be told.
        """
        found = await asyncio.to_thread(self._read_setup)
        if found != self.setup:
            known, self.setup = self.setup, found
            self._changed.ring()
            if found.blocked != known.blocked:
                log.info("kubelet's set-up", extra={"blocked": found.blocked})
                self._begin_again()

    async def refill(self) -> None:
        """Put what starts have freed back into the holds."""
        for pool in list(self._pools.values()):
            try:
                self._has(await self._source(pool).refill(pool.name))
            except Exception as error:
                # One pool must keep no other, and no lease, from what is due.
                loops.failed("refill", error, pool=pool.name)

    def _has(self, reserved: seams.PoolReserved) -> None:
        """Know what a pool has, unless it has gone."""
        if reserved.pool in self._pools:
            self._put(dataclasses.replace(self._pools[reserved.pool], reserved=reserved))

    def _stands(self, pool: ActivePool) -> bool:
        """Whether a pool has got no other order meanwhile."""
        now = self._pools[pool.name]
        known = now.order, now.moved, now.is_leaving
        return known == (pool.order, pool.moved, pool.is_leaving)

    def _become(self, pool: ActivePool, state: State, *, reason: str = "", why: str = "") -> None:
        """Know what came of a pool's order, if it still stands."""
        if self._stands(pool):
            now = self._pools[pool.name]
            self._put(dataclasses.replace(now, state=state, reason=reason, why=why))

    def _put(self, after: ActivePool) -> None:
        before = self._pools[after.name]
        if after != before:
            self._pools[after.name] = after
            self._changed.ring()
            is_too_large = after.is_leaving or after.capacity_bytes > after.order.capacity
            was_freed = is_too_large and after.reserved != before.reserved
            was_lost = before.is_full and after.capacity_bytes < before.capacity_bytes
            if was_freed or was_lost:
                # What was freed can go back, what was lost is sought at once; all else can wait.
                self.touch()


def _backend(order: v1alpha1.NodePool) -> tuple[v1alpha1.SourceKind, str]:
    """What memory of the pool is bound to, once it has some: its source, and driver with class."""
    is_plain = order.mapping == "Bare"
    return order.source.kind, order.driver if is_plain else f"{order.driver} ({order.mapping})"
