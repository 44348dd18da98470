"""The values and interfaces at which the agent's parts meet.

`PodSource`, `SpecSource` and `Reporter` have two implementations each: the API server's
(`som_device_plugin.cluster`) and files (`som_device_plugin.local`). A `Source` gets a pool's
memory, a `Driver` keeps it in a `Hold` and hands it out: `backends` says which go together.
`TicketService` is what the kubelet protocol needs of the lease core.
"""

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Final, NewType, Protocol

from som_api import SomError, v1alpha1

LeaseId = NewType("LeaseId", str)
"""Random name of a lease, 16 hexadecimal digits; also the directory of its mount."""

Ticket = NewType("Ticket", str)
"""Id of one device of som.io/ticket, `n<NUMA node>-<number>`."""

PodUid = NewType("PodUid", str)

DEVICE_PATH: Final = "/dev/som"


@dataclasses.dataclass(frozen=True)
class Owner:
    """The container that holds a lease."""

    namespace: str
    pod: str
    container: str
    uid: PodUid

    @property
    def names(self) -> tuple[str, str, str]:
        """Namespace, pod and container: what a successor of the same name shares."""
        return self.namespace, self.pod, self.container

    def __str__(self) -> str:
        return "/".join(self.names)


@dataclasses.dataclass(frozen=True)
class ContainerRequest:
    """One container of a pod that requests som memory: how many of which unit.

    `preload`: what it is to have in LD_PRELOAD, libsom included; "": som leaves that alone.
    `fault`: why it cannot start as it is written, or "". `is_movable`: see `movable.by_spec`.
    """

    name: str
    unit: v1alpha1.Unit
    count: int
    preload: str = ""
    fault: str = ""
    is_movable: bool = False

    @property
    def size_bytes(self) -> int:
        return self.count * v1alpha1.UNIT_BYTES[self.unit]


@dataclasses.dataclass(frozen=True)
class Pod:
    """What the agent knows of a pod: identity, whether it has ended, its som containers.

    `keep_on_restart`: the containers that find their content again after a restart -> for how many
    seconds after the pod's end a container of its successor does. `lineage`: what makes the pod,
    and its successors; "": nothing. `running`: container that runs -> UNIX time when it started,
    and `restarts`: when the one before it ended; both in whole seconds.
    """

    namespace: str
    name: str
    uid: PodUid
    terminal: bool
    containers: tuple[ContainerRequest, ...]
    keep_on_restart: Mapping[str, float] = dataclasses.field(default_factory=dict)
    lineage: str = ""
    running: Mapping[str, float] = dataclasses.field(default_factory=dict)
    restarts: Mapping[str, float] = dataclasses.field(default_factory=dict)


class PodSource(Protocol):
    """The node's pods, answered from memory. Silence is no information: see `synced`."""

    @property
    def synced(self) -> bool:
        """Whether the source has listed all pods of the node since the agent started."""

    def get(self, *, namespace: str, name: str) -> Pod | None:
        """The pod of this name now, or None."""

    def pods(self) -> Sequence[Pod]:
        """All pods known, the terminal ones included."""


class SpecSource(Protocol):
    """The orders for this node."""

    def specs(self) -> AsyncIterator[tuple[int, v1alpha1.SomNodeSpec]]:
        """(generation, spec) now and at every change, only the newest; waits in between."""


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that an admin should see on the Node: `warning` only for trouble."""

    reason: str
    message: str
    warning: bool = False


class Reporter(Protocol):
    """Where the agent's observations go. Never raises for a server that is away: it retries."""

    async def report(self, status: v1alpha1.SomNodeStatus) -> None:
        """Publish `status`; cheap when nothing changed."""

    async def event(self, event: Event) -> None:
        """Publish `event` on the Node."""


@dataclasses.dataclass(frozen=True)
class Outside:
    """The agent's neighbours: who gives orders, who knows the pods, who hears reports."""

    specs: SpecSource
    pods: PodSource
    reporter: Reporter


@dataclasses.dataclass(frozen=True)
class Start:
    """One start of a lease's container: memory of its own, zeroed, in a cgroup slot of its own.

    `number` counts from 1 within the lease. `driver` is the name of the one that builds it.
    `preferred_node` is the ticket's NUMA node. `built_as` is the name that it keeps on the node
    when it was built for another lease, a spare, and given to this one.
    """

    lease_id: LeaseId
    number: int
    pool: str
    slot: int
    size_bytes: int
    page_bytes: int
    driver: str
    preferred_node: int | None = None
    built_as: str = ""

    @property
    def name(self) -> str:
        """`<lease-id>.<number>`, as it was built, whichever lease has it now."""
        return self.built_as or f"{self.lease_id}.{self.number}"

    @property
    def built(self) -> tuple[LeaseId, int]:
        """Its name in two: what a driver knows it by."""
        lease_id, _, number = self.name.rpartition(".")
        return LeaseId(lease_id), int(number)

    @property
    def mount_source(self) -> str:
        """The name by which mountinfo shows it: `som:<lease-id>.<number>`."""
        return f"som:{self.name}"


@dataclasses.dataclass(frozen=True)
class Usage:
    """What the kernel says that a start holds; both 0: free, and nobody can map it any more."""

    current_bytes: int
    reserved_bytes: int

    @property
    def free(self) -> bool:
        return self.current_bytes == 0 and self.reserved_bytes == 0

    @property
    def held_bytes(self) -> int:
        """Pages in use or promised, whichever is more: what the start keeps from the pool."""
        return max(self.current_bytes, self.reserved_bytes)


@dataclasses.dataclass(frozen=True)
class Seen:
    """What one look at the kernel shows of a driver's starts, by (lease, number) as built.

    `attached`: those that can be opened now -> their bytes. `resisting`: those that `revoke` has
    detached and not taken, to be revoked again. `usage`: what those that were asked for still hold.
    """

    attached: Mapping[tuple[LeaseId, int], int]
    resisting: frozenset[tuple[LeaseId, int]]
    usage: Mapping[tuple[LeaseId, int], Usage]


@dataclasses.dataclass(frozen=True)
class Mount:
    """One mount of a container; `options` in the words of mount(8)."""

    host_path: str
    container_path: str
    options: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class DeviceNode:
    """A character device of a container, which every user of it may read and write."""

    host_path: str
    container_path: str
    major: int
    minor: int


@dataclasses.dataclass(frozen=True)
class ContainerEdits:
    """What a driver adds to a container."""

    mounts: tuple[Mount, ...] = ()
    devices: tuple[DeviceNode, ...] = ()


@dataclasses.dataclass(frozen=True)
class Statistics:
    """What a container does with a start: bytes behind its mappings now and at most so far.

    Page faults answered with 2 MiB and with 1 GiB; bytes zeroed while one of them waited.
    """

    used_bytes: int
    peak_bytes: int
    faults_2m: int
    faults_1g: int
    zeroed_late_bytes: int


@dataclasses.dataclass(frozen=True)
class Moves:
    """What was moved in a pool since som.ko made it, and how often that failed."""

    moved_bytes: int
    failed: int


@dataclasses.dataclass(frozen=True)
class Promotion:
    """What was moved to make GiB of mappings whole, and how many bytes become pages of 1 GiB."""

    moved_bytes: int
    asked_bytes: int


class DriverError(SomError):
    """The driver could not do what it was asked for."""


class DriverNotLoaded(DriverError):
    """som.ko is not in the kernel, so it has no pool and no lease."""

    reason = "DriverNotLoaded"


class NotEnoughMemory(DriverError):
    """The kernel had no such pages; the start holds nothing."""


@dataclasses.dataclass(frozen=True)
class Holding:
    """What the kernel says of a pool: bytes free in its hold, and bytes that starts hold.

    `bad_bytes` have failed: nobody gets them again. `whole_free_bytes` of the free ones are in
    whole GiB, for 1 GiB pages; None: the pool has no such pages beside smaller ones.
    """

    free_bytes: int
    held_bytes: int
    bad_bytes: int = 0
    whole_free_bytes: int | None = None


class Hold(Protocol):
    """What keeps a pool's free memory from everybody else on the node: the driver's half of it.

    It outlives the agent, and every call is safe to repeat after a crash at any point. Each raises
    SomError or OSError when the kernel refuses, with what it answered.
    """

    def locked(self) -> contextlib.AbstractContextManager[Holding]:
        """What the pool has; inside the block no start takes what `shrink` lets go."""

    def free_pages(self) -> Mapping[int, int]:
        """NUMA node -> pages that `shrink` could let go there, at most; inside `locked`."""

    def shrink(self, free_bytes: int, *, node: int | None = None) -> None:
        """Let go of everything beyond `free_bytes`, which are fewer than now; inside `locked`.

        Pages of `node`, if the hold has pages of certain nodes.
        """

    def fill(self, node_bytes: Mapping[int, int]) -> None:
        """Keep what of the pool no start holds and no other has taken.

        Makes the hold. Not inside `locked`. `node_bytes`: all that is the pool's, by NUMA node.
        """

    def remove(self) -> None:
        """Remove the empty hold and what is left of the pool's starts. Idempotent."""


@dataclasses.dataclass(frozen=True)
class Span:
    """One piece of a pool in som.ko: physical range, NUMA node, bytes of it that leases hold.

    `is_leaving`: `remove` took it out of use, and the kernel did not take it back: remove it again.
    """

    start: int
    size_bytes: int
    node: int
    held_bytes: int
    is_leaving: bool = False


class RangeRefused(DriverError):
    """som.ko refused to take or to give back memory; `errno` is its answer."""

    def __init__(self, message: str, errno: int) -> None:
        super().__init__(message)
        self.errno = errno


class RangeHold(Protocol):
    """A pool that lives in som.ko: the pool there is the hold, and nothing of it is stored twice.

    It outlives the agent, and every call is safe to repeat after a crash at any point. Each raises
    DriverNotLoaded when som.ko is not loaded.
    """

    def spans(self) -> Sequence[Span]:
        """What the pool consists of, each as it was added, by address; () when there is none."""

    def holding(self) -> Holding:
        """Bytes that are promised to no lease, and the quotas of all leases."""

    def add(self, start: int, size_bytes: int, *, mapping: v1alpha1.Mapping = "Bare") -> None:
        """Bring a physical range into the pool, all or nothing; makes the pool first, so mapped.

        Raises:
            RangeRefused: the pool is as before; EINVAL: it is mapped in another way.
        """

    def remove(self, start: int) -> None:
        """Give back the span that begins at `start`.

        Raises:
            RangeRefused: EBUSY while a lease holds a part of it, or quotas need it.
        """

    def failed(self, address: int) -> None:
        """Let no pool have the 2 MiB at `address` from now on; told twice is no error."""

    def empty(self, span: Span, *, most_bytes: int) -> None:
        """Move so much of what leases hold of `span` to elsewhere in the pool, if it may move.

        Their users find the content unchanged. What others take there meanwhile stays.

        Raises:
            RangeRefused: nothing has moved. ENOSPC: there is no room on the span's NUMA node;
                EOPNOTSUPP: nothing of this pool moves.
        """

    def destroy(self) -> None:
        """Give everything back, and remove the pool. Idempotent.

        Raises:
            RangeRefused: EBUSY while it has leases.
        """


class Driver(Protocol):
    """What stands behind /dev/som. Every call is safe to repeat after a crash at any point.

    `keeps_content`: a program that maps a start finds what an earlier one wrote there.
    `zeroes_at_build`: a build takes the longer the larger it is, so that spares are worth it.
    Where starts are keyed by (lease, number), it is as they were built: `Start.built`.
    """

    name: str
    keeps_content: bool
    zeroes_at_build: bool

    def self_check(self) -> None:
        """Raises DriverError, with the cure, when this node cannot serve leases."""

    def edits(self, start: Start) -> ContainerEdits:
        """What a container gets with `start` once it is built.

        Raises:
            DriverError: it is not there.
        """

    def remove_path(self, lease_id: LeaseId) -> None:
        """Take the lease's directory away, if there is one; idempotent.

        Raises:
            DriverError: something is mounted there still.
        """

    def free_slot(self, *, pool: str, named: frozenset[int]) -> int:
        """A slot of the pool that no record names and in which the kernel shows nothing held."""

    async def build(
        self,
        start: Start,
        *,
        on_progress: Callable[[int], None],
        is_spare: bool = False,
        is_movable: bool = False,
    ) -> Mapping[int, int]:
        """Take the memory from the pool's hold, zero it and attach it at the lease's path.

        Attaching is the last step: a build that dies earlier leaves nothing mounted. Calls
        `on_progress(bytes ready)` meanwhile. Cancelling ends the build and frees its memory.
        A start that is attached already is done, and cut to its size where it is longer.
        `is_spare`: nobody waits for it, so it takes half of one core at most, and that last.
        `is_movable`: whoever gets it can give it to no device.
        The answer: NUMA node -> bytes there.

        Raises:
            NotEnoughMemory: the hold or the kernel could not give the pages.
            DriverError: anything else, with what the system answered.
        """

    def revoke(self, start: Start) -> None:
        """Take the memory away from whoever holds it. Idempotent.

        Waits for nobody: what a holder keeps from being taken is detached, and `Seen.resisting`.

        Raises:
            DriverError: the kernel refused; try again.
        """

    def usage(self, start: Start) -> Usage:
        """What the start still holds, from the kernel."""

    def look(self, starts: Sequence[Start]) -> Seen:
        """All starts that are there, named in `starts` or not, and what those hold."""

    def statistics(self, start: Start) -> Statistics | None:
        """What is done with the start; None: it is not there, or nobody counts."""

    def compact(self, pool: str, *, most_bytes: int) -> int:
        """Move what starts use of `pool`, so that whole GiB become free; the bytes moved.

        Fewer than `most_bytes`: there was nothing more to move.

        Raises:
            DriverError: with what the kernel answered.
        """

    def promote(self, pool: str, *, most_bytes: int) -> Promotion:
        """Have GiB that starts use by 2 MiB become pages of 1 GiB when they are next touched.

        Where one is scattered, it is moved together, if that takes no more than what is left of
        `most_bytes`.

        Raises:
            DriverError: with what the kernel answered.
        """

    def moves(self, pool: str) -> Moves | None:
        """How much all that was; None: nothing of `pool` moves, or it is not there."""

    def culprits(self, start: Start) -> Sequence[str]:
        """Best-effort names (`pid 42 (postgres)`) of processes that hold the start's memory."""

    def end_builders(self) -> None:
        """End every process left in som's cgroups by an agent that is gone. Waits for it."""

    async def close(self) -> None:
        """End what was started ahead; what is built stays."""


@dataclasses.dataclass(frozen=True)
class PoolReserved:
    """What a pool really has.

    `capacity_bytes` is what leases can ever hold: the hold's `free_bytes` and what starts hold
    now. `node_bytes` is the pool's share per NUMA node. `shortfall` says why the capacity is less
    than what was last applied, as `37.5Gi of 64Gi: no contiguous memory on NUMA node 1`, or "".
    `page_bytes` is 0 for a pool that has nothing. `whole_free_bytes`: see `Holding`.
    """

    pool: str
    capacity_bytes: int = 0
    free_bytes: int = 0
    node_bytes: Mapping[int, int] = dataclasses.field(default_factory=dict)
    shortfall: str = ""
    page_bytes: int = 0
    whole_free_bytes: int | None = None


class Source(Protocol):
    """Where the memory of pools comes from. Calls may overlap; between steps they take turns.

    Each raises SomError when the node or the kernel refuses, with what it answered.
    """

    async def reserved(self, pool: str) -> PoolReserved:
        """What `pool` has now; nothing for a pool that is not known. Changes nothing."""

    async def apply(
        self,
        pool: v1alpha1.NodePool,
        *,
        held_bytes: int,
        on_progress: Callable[[PoolReserved], None],
    ) -> PoolReserved:
        """Grow or shrink `pool` towards its capacity; calls `on_progress` after each step.

        Never shrinks below `held_bytes` (what is promised to pods) or what starts hold. Falls
        short with a message, not an error. Cancelling keeps what was had until then.
        """

    async def release(self, pool: str) -> None:
        """Give all memory of `pool` back and forget it, unless starts hold some. Idempotent."""

    async def refill(self, pool: str) -> PoolReserved:
        """Put what starts no longer hold back into the hold of `pool`, if that is still known."""

    async def check(self) -> tuple[list[Event], list[PoolReserved]]:
        """The cycle: repair what others did; the news for an admin, and what each pool has."""


@dataclasses.dataclass(frozen=True)
class Backend:
    """What stands behind a pool."""

    source: Source
    driver: Driver


@dataclasses.dataclass(frozen=True)
class TicketDevice:
    """One ticket as advertised to kubelet."""

    ticket: Ticket
    healthy: bool
    numa_node: int


class StartRefused(SomError):
    """PreStartContainer cannot succeed now; the text is what `kubectl describe pod` shows.

    `reason`, one CamelCase word, is what refusals are counted by.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class TicketService(Protocol):
    """What kubelet's calls come down to. Implemented by the lease core."""

    def devices(self) -> Sequence[TicketDevice]:
        """All tickets, as the plugin must advertise them now."""

    async def changed(self) -> None:
        """Returns when `devices()` may have changed since the last call to `devices()`."""

    def preferred(
        self, *, available: Sequence[Ticket], must_include: Sequence[Ticket], size: int
    ) -> Sequence[Ticket]:
        """The tickets to hand out: unused longest first, never one with a live lease."""

    async def allocate(self, tickets: Sequence[Ticket]) -> LeaseId:
        """Names a new lease for the ticket; one durable write, milliseconds.

        Raises:
            SomError: more than one ticket, or an unknown one.
        """

    async def pre_start(self, tickets: Sequence[Ticket]) -> None:
        """Make the ticket's lease real; returns when the container may start.

        Raises:
            StartRefused: not yet, or not at all; kubelet retries.
        """


@dataclasses.dataclass(frozen=True)
class TicketHolder:
    """Who PodResources says holds a ticket."""

    namespace: str
    pod: str
    container: str
    ticket: Ticket


@dataclasses.dataclass(frozen=True)
class PodResources:
    """One answer of kubelet's PodResources List.

    `pods` names every pod listed (`namespace/name`), also those without tickets: an answer that
    does not name the agent's own pod proves nothing.
    """

    pods: frozenset[str]
    holders: tuple[TicketHolder, ...]


class PodResourcesClient(Protocol):
    """kubelet's PodResources List; calls are coalesced and bounded (100/s for the socket)."""

    async def list(self) -> PodResources:
        """Raises SomError when kubelet does not answer."""
