"""`kubectl som plan`: asks the API server and the plan, and prints what would change."""

import json
from collections.abc import Sequence
from typing import Final

import pydantic

from som_api import SomError, v1alpha1
from som_kubectl import (
    AMISS,
    FAILED,
    FINE,
    cluster,
    kubectl,
    manifests,
    output,
    planning,
    show,
    table,
)

_NAMED: Final = 3


def run(there: cluster.Cluster, files: Sequence[str], deleted: Sequence[str], form: str) -> int:
    """Print what applying `files` and deleting pools would change; the exit status."""
    if not files and not deleted:
        raise SomError("nothing to plan: name a file with -f, or a pool with --delete")
    applied = list[v1alpha1.SomPool]()
    if files:
        found = manifests.read(files)
        for fault in found.faults:
            output.note(f"error: {fault}")
        if found.faults:
            return FAILED
        for other in found.others:
            output.note(f"{other} is not som's; not looked at")
        applied = dry_run(there.program, found)
    fleet = there.fleet()
    missing = [name for name in deleted if name not in fleet.pools]
    if missing:
        raise SomError(f"delete {', '.join(missing)}: there is no such SomPool")
    touched = {pool.metadata.name for pool in applied} | set(deleted)
    pools = planning.after(fleet, applied=applied, deleted=deleted)
    planned = planning.plan_fleet(fleet, pools, touched=touched)
    if form:
        output.document(as_document(planned), form)
    else:
        print(text(planned, fleet))
    return FINE if planned.is_empty else AMISS


def dry_run(program: kubectl.Kubectl, found: manifests.Files) -> list[v1alpha1.SomPool]:
    """The SomPools as the API server would store them. Raises kubectl.Refused."""
    objects = [pool.manifest for pool in found.pools]
    stdin = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}).encode()
    words = ("apply", "--dry-run=server", "--output=json", "--filename=-")
    answer = kubectl.decoded(program.run(*words, stdin=stdin), "apply --dry-run=server")
    stored = answer["items"] if answer.get("kind") == "List" else [answer]
    try:
        return [v1alpha1.SomPool.model_validate(item) for item in stored]
    except pydantic.ValidationError as error:
        fault = cluster.first_fault(error)
        raise SomError(f"read what kubectl apply would make of the files: {fault}") from error


def as_document(planned: planning.Plan) -> dict[str, object]:
    """The plan for programs: each change, and the specs that the SomNodes would have."""
    specs = {
        node: v1alpha1.SomNodeSpec(pools=entries).model_dump(mode="json", exclude_none=True)
        for node, entries in planned.specs.items()
    }
    return {"changes": output.plain(list(planned.changes)), "somNodeSpecs": specs}


def text(planned: planning.Plan, fleet: cluster.Fleet) -> str:
    """The plan for people: nodes to which the same happens share a line."""
    groups = dict[tuple[str, str, int | None, int | None, str], list[str]]()
    for change in planned.changes:
        key = (change.pool, change.what, change.now_bytes, change.then_bytes, change.note)
        groups.setdefault(key, []).append(change.node)
    in_order = sorted(groups.items(), key=lambda group: (group[0][0], group[1]))
    rows = [
        (pool, what, _amount(now), _amount(then), str(len(nodes)), _named(nodes), note)
        for (pool, what, now, then, note), nodes in in_order
    ]
    heads = ("POOL", "WHAT", "NOW", "THEN", "COUNT", "NODES", "NOTE")
    lines = table.lines(table.Table(heads, rows), wide=table.width()) if rows else []
    changed = {change.node for change in planned.changes if change.is_change}
    if not changed:
        return "\n".join([*lines, f"no change on any of {len(fleet.nodes)} nodes"])
    more = sum(
        (change.then_bytes or 0) - (change.now_bytes or 0)
        for change in planned.changes
        if change.is_change
    )
    amount = f"{show.amount(abs(more))} {'more' if more > 0 else 'less'}" if more else "as much"
    return "\n".join(
        [*lines, f"{len(changed)} of {len(fleet.nodes)} nodes change; {amount} is ordered in all"]
    )


def _amount(count_bytes: int | None) -> str:
    return "" if count_bytes is None else show.amount(count_bytes)


def _named(nodes: Sequence[str]) -> str:
    rest = len(nodes) - _NAMED
    return ", ".join(nodes[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
