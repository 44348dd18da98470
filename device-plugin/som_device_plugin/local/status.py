"""`som local status`: pools and programs, as a table or as JSON."""

import json

from rich import console, table

from som_api import v1alpha1
from som_device_plugin.local import books, daemons, layout


def as_json(state_dir: layout.StateDir) -> str:
    """Everything that is known, for scripts."""
    status = books.read_status(state_dir)
    return json.dumps(
        {
            "agent": daemons.agent(state_dir).runs(),
            "standIn": daemons.stand_in(state_dir).runs(),
            "node": status.model_dump(mode="json") if status else None,
            "programs": [
                {
                    "pod": pod.name,
                    "unit": pod.request.unit,
                    "units": pod.request.count,
                    "bytes": pod.request.size_bytes,
                    "ticket": pod.ticket,
                }
                for pod in books.read_pods(state_dir)
            ],
        },
        indent=2,
    )


def show(state_dir: layout.StateDir) -> None:
    """Print tables for people."""
    out = console.Console()
    status = books.read_status(state_dir)
    if status is None:
        out.print(f"no pool is up in {state_dir.path}; `som local up -f FILE` makes one")
        return
    for daemon in (daemons.agent(state_dir), daemons.stand_in(state_dir)):
        if not daemon.runs():
            out.print(f"{daemon.name} does not run: `som local up` starts it; see {daemon.log}")
    pools = table.Table("POOL", "UNIT", "CAPACITY", "ALLOCATED", "FREE", "READY", "REASON")
    for pool in status.pools:
        amounts = (v1alpha1.format_bytes(n) for n in (pool.capacity, pool.allocated, pool.free))
        ready = next(each for each in pool.conditions if each.type == "Ready")
        pools.add_row(pool.name, pool.unit, *amounts, ready.status, ready.reason)
    out.print(pools)
    programs = table.Table("PROGRAM", "UNITS", "MEMORY", "TICKET")
    for pod in books.read_pods(state_dir):
        units = f"{pod.request.count} x {pod.request.unit}"
        memory = v1alpha1.format_bytes(pod.request.size_bytes)
        programs.add_row(pod.name, units, memory, pod.ticket)
    if programs.rows:
        out.print(programs)
    for condition in (*status.conditions, *(c for pool in status.pools for c in pool.conditions)):
        if condition.message and condition.reason not in ("Reserved", "AsExpected"):
            out.print(f"{condition.reason}: {condition.message}")
