"""The life of a start, as a table. Nothing in this module does I/O.

Theory of operation. Kubelet *names* a lease at admission (Allocate): a row, and nothing else.
PreStartContainer *binds* it to the container that holds the ticket, and gives it a **start**:
memory of its own, in a cgroup slot of its own. A start is

    BUILDING    reserved and zeroed by a worker, or about to be
    READY       attached at the lease's path; its container was not told yet
    DELIVERED   its container was told to start; from here on it may be mapped by anybody
    KEPT        left by a pod that has gone, for the one that is made in its place
    RELEASING   taken away; waits until the kernel shows that nobody holds its pages

and then forgotten. A lease has at most one start that is not RELEASING. What each event does in
each state is `TRANSITIONS`, complete on purpose: a pair that is not in it is a bug, and raises.
"""

import dataclasses
import enum
from collections.abc import Mapping
from typing import Final

from som_device_plugin import seams


class State(enum.Enum):
    """Where a start is; the value is what the store keeps."""

    BUILDING = "building"
    READY = "ready"
    DELIVERED = "delivered"
    KEPT = "kept"
    RELEASING = "releasing"


class Event(enum.Enum):
    """What can happen to a start: what the agent does, and what it finds (see `decide`)."""

    BUILT = "attached at its path"
    BUILD_FAILED = "its worker could not build it"
    TOLD = "PreStartContainer is about to answer OK"
    RESTARTED = "PreStartContainer came again after OK: a new container"
    USED = "its container runs, or is told to start with it once more: its content may be kept"
    OWNER_GONE = "both proofs: released"
    LEFT = "both proofs: kept for its owner's successor"
    BUILDER_LOST = "its builder is gone: built again at the next start"
    MOUNT_LOST = "its mount is gone"
    LOST = "its memory is gone, as after a boot: somebody destroyed it, or loaded som.ko again"
    STILL_MOUNTED = "to be taken away, and nobody has done it yet: done now"
    RESISTS = "released, and its holder keeps the kernel from taking it: tried again"
    FREED = "nobody holds its pages any more"
    OTHER_BOOT = "of another boot: content lost, ticket and owner kept"


class Action(enum.Enum):
    """What the shell has to do, after the new state is stored."""

    END_BUILD = "stop the worker, which frees what it took"
    REVOKE = "taken away from whoever holds it"
    FORGET = "remove the record; the slot may be used again"


@dataclasses.dataclass(frozen=True)
class Step:
    """The next state (the same one: stay) and what to do. `used`: see `StartRecord`."""

    state: State
    actions: tuple[Action, ...] = ()
    used: bool = False


_TAKE_AWAY: Final = Step(State.RELEASING, (Action.REVOKE,))
_STOP: Final = Step(State.RELEASING, (Action.END_BUILD, Action.REVOKE))

TRANSITIONS: Final[Mapping[tuple[State, Event], Step]] = {
    (State.BUILDING, Event.BUILT): Step(State.READY),
    (State.BUILDING, Event.BUILD_FAILED): _TAKE_AWAY,
    (State.BUILDING, Event.OWNER_GONE): _STOP,
    (State.BUILDING, Event.BUILDER_LOST): _TAKE_AWAY,
    (State.BUILDING, Event.OTHER_BOOT): Step(State.RELEASING, (Action.FORGET,)),
    (State.READY, Event.TOLD): Step(State.DELIVERED),
    (State.READY, Event.OWNER_GONE): _TAKE_AWAY,
    (State.READY, Event.MOUNT_LOST): _TAKE_AWAY,
    (State.READY, Event.LOST): _TAKE_AWAY,
    (State.READY, Event.OTHER_BOOT): Step(State.RELEASING, (Action.FORGET,)),
    (State.DELIVERED, Event.RESTARTED): _TAKE_AWAY,
    (State.DELIVERED, Event.USED): Step(State.DELIVERED, used=True),
    (State.DELIVERED, Event.OWNER_GONE): _TAKE_AWAY,
    (State.DELIVERED, Event.LEFT): Step(State.KEPT, used=True),
    # Its container keeps the superblock by its own mount, and with it the memory.
    (State.DELIVERED, Event.MOUNT_LOST): Step(State.DELIVERED),
    (State.DELIVERED, Event.LOST): _TAKE_AWAY,
    (State.DELIVERED, Event.OTHER_BOOT): Step(State.RELEASING, (Action.FORGET,)),
    (State.KEPT, Event.OWNER_GONE): _TAKE_AWAY,
    (State.KEPT, Event.MOUNT_LOST): _TAKE_AWAY,
    (State.KEPT, Event.LOST): _TAKE_AWAY,
    (State.KEPT, Event.OTHER_BOOT): Step(State.RELEASING, (Action.FORGET,)),
    # The worker ended after all: what it attached meanwhile goes the same way.
    (State.RELEASING, Event.BUILT): _TAKE_AWAY,
    (State.RELEASING, Event.BUILD_FAILED): Step(State.RELEASING),
    (State.RELEASING, Event.STILL_MOUNTED): _TAKE_AWAY,
    (State.RELEASING, Event.RESISTS): _TAKE_AWAY,
    (State.RELEASING, Event.FREED): Step(State.RELEASING, (Action.FORGET,)),
    (State.RELEASING, Event.OTHER_BOOT): Step(State.RELEASING, (Action.FORGET,)),
}


def step(state: State, event: Event) -> Step:
    """What `event` does to a start in `state`; KeyError for a pair that cannot happen."""
    return TRANSITIONS[state, event]


@dataclasses.dataclass(frozen=True)
class StartRecord:
    """A start as the store keeps it. `told_at_s`: UNIX time of its delivery.

    `used`: a container may have written to it; else all of it is zero.
    """

    start: seams.Start
    state: State
    boot_id: str
    told_at_s: float | None = None
    used: bool = False


@dataclasses.dataclass(frozen=True)
class Lease:
    """A lease as the store keeps it. `owner` is None until PreStartContainer has bound it.

    One without a ticket is no container's: it has a spare (see `spares`) until that is adopted. If
    it has an owner, that is gone, and its memory is kept until `kept_until_s` (UNIX time) for a
    successor: a container of the same names, `lineage` and size.

    `named_order` grows with every Allocate: of two leases of a ticket, the newer is the larger.
    `ended`: both proofs were seen; it is forgotten with its last start.
    `keep_on_restart`: a restarted container finds its content again (warm restart), and for
    `keep_s` after its pod's end the successor's.
    `last_number` is that of its newest start, forgotten ones included: no two have the same.
    """

    lease_id: seams.LeaseId
    ticket: seams.Ticket
    named_order: int
    owner: seams.Owner | None = None
    request: seams.ContainerRequest | None = None
    ended: bool = False
    keep_on_restart: bool = False
    last_number: int = 0
    starts: tuple[StartRecord, ...] = ()
    keep_s: float = 0.0
    lineage: str = ""
    kept_until_s: float | None = None

    @property
    def is_spare(self) -> bool:
        """Whether no container has its memory, which so counts as free."""
        return not self.ticket

    @property
    def is_kept(self) -> bool:
        """Whether it is a spare with what a container left for its successor."""
        return self.kept_until_s is not None

    @property
    def live(self) -> StartRecord | None:
        """The start that is not being released, if any."""
        for record in self.starts:
            if record.state is not State.RELEASING:
                return record
        return None
