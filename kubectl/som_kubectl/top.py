"""Who has most of the som memory."""

import dataclasses
from collections.abc import Iterable, Sequence

from som_kubectl import show, table


@dataclasses.dataclass(frozen=True, slots=True)
class Share:
    """What `name` has of the `whole_bytes` that there are for it."""

    name: str
    held_bytes: int
    whole_bytes: int
    where: str = ""


def pools(rows: Iterable[show.Pool]) -> list[Share]:
    """Pools by what containers hold of them."""
    return _sorted(
        Share(row.name, row.allocated_bytes, row.capacity_bytes, show.count(row.nodes, "node"))
        for row in rows
    )


def nodes(rows: Iterable[show.Node]) -> list[Share]:
    """Nodes by what containers hold of them."""
    return _sorted(
        Share(row.name, row.allocated_bytes, row.capacity_bytes, ",".join(row.pools))
        for row in rows
    )


def pods(leases: Iterable[show.Lease]) -> list[Share]:
    """Pods by what they request, of all that these pods request."""
    held, where = dict[str, int](), dict[str, str]()
    for lease in leases:
        name = f"{lease.namespace}/{lease.pod}"
        held[name] = held.get(name, 0) + lease.requested_bytes
        where[name] = lease.node
    whole = sum(held.values())
    return _sorted(Share(name, held[name], whole, where[name]) for name in held)


def _sorted(shares: Iterable[Share]) -> list[Share]:
    return sorted(shares, key=lambda share: (-share.held_bytes, share.name))


def as_table(rows: Sequence[Share]) -> table.Table:
    """Shares for people."""
    return table.Table(
        ("NAME", "HAS", "OF", "SHARE", "WHERE"),
        [
            (
                row.name,
                show.amount(row.held_bytes),
                show.amount(row.whole_bytes),
                table.bar(row.held_bytes, row.whole_bytes),
                row.where,
            )
            for row in rows
        ],
        extra=("OF", "WHERE"),
    )
