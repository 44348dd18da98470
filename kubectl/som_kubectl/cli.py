"""som memory of a cluster: who has how much, where, what is wrong, and what a change would do."""

import argparse
import datetime
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from som_api import VERSION, SomError
from som_kubectl import AMISS, FAILED, FINE, kubectl

if TYPE_CHECKING:
    from som_kubectl import cluster, show

_STATUS: Final = (
    "Exit status: 0 all is well, or done; 1 something is amiss, or would change, and the output "
    "says what; 2 it could not be found out, or done."
)
_PASSED_ON: Final = {
    "kubeconfig": "FILE",
    "context": "NAME",
    "cluster": "NAME",
    "user": "NAME",
    "server": "URL",
    "as": "USER",
    "as-group": "GROUP",
    "request-timeout": "TIME",
}
"""Flags of kubectl's that go to kubectl as they are."""

R = TypeVar("R", "show.Pool", "show.Node")
Command = Callable[[argparse.Namespace, "cluster.Cluster"], int]


def parser() -> argparse.ArgumentParser:
    """The command line of `kubectl som`."""
    result = argparse.ArgumentParser(prog="kubectl som", description=__doc__, epilog=_STATUS)
    result.add_argument("--version", action="version", version=f"kubectl-som {VERSION}")
    commands = result.add_subparsers(required=True, metavar="COMMAND", dest="command")
    flags = _flags()

    def add(name: str, run: Command, what: str, **more: str) -> argparse.ArgumentParser:
        text = f"{what[:1].upper()}{what[1:]}. {more.get('more', '')}".rstrip()
        command = commands.add_parser(
            name, help=what, description=text, epilog=more.get("status", _STATUS), parents=[flags]
        )
        command.set_defaults(run=run)
        return command

    status = add("status", _status, "show operator, agents, sums, and every trouble")
    pools = add("pools", _pools, "show pools")
    pools.add_argument("names", nargs="*", metavar="POOL", help="default: all")
    nodes = add("nodes", _nodes, "show nodes with som memory")
    nodes.add_argument("names", nargs="*", metavar="NODE", help="default: all")
    nodes.add_argument("--pool", metavar="POOL", help="those of this pool alone")
    nodes.add_argument("--not-ready", action="store_true", help="those with a trouble alone")
    leases = add("leases", _leases, "show which containers request som memory")
    leases.add_argument("--node", metavar="NODE", help="those of this node alone")
    top = add("top", _top, "show who has most of it")
    top.add_argument(
        "of", nargs="?", choices=["pools", "nodes", "pods"], default="pods", help="default: pods"
    )
    for command in (leases, top):
        _namespace(command)
    for command in (status, pools, nodes, leases, top):
        _form(command)
        command.add_argument(
            "-w", "--watch", action="store_true", help="show it again whenever it changes"
        )

    plan = add(
        "plan",
        _plan,
        "say what would change on which node",
        more="Nothing is changed. The API server says what kubectl apply would make of the files "
        "(a dry run, which needs the right to apply them), and the operator's own plan says what "
        "it would order then.",
        status="Exit status, as kubectl diff: 0 nothing would change; 1 something would; 2 an "
        "error.",
    )
    plan.add_argument(
        "-f",
        "--filename",
        action="append",
        default=[],
        metavar="FILE",
        help="SomPools that would be applied: a file, a folder, or - for standard input",
    )
    plan.add_argument(
        "--delete",
        action="append",
        default=[],
        metavar="POOL",
        help="a pool that would be deleted",
    )
    _form(plan)

    explain = add(
        "explain",
        _explain,
        "say why a pool, a node or a pod is not Ready, and what to do",
        status="Exit status: 0 nothing is wrong with it; 1 something is; 2 an error.",
    )
    explain.add_argument(
        "name", metavar="KIND/NAME", help="such as pool/databases, node/worker-1, pod/db-0; or NAME"
    )
    explain.add_argument("-n", "--namespace", default="", help="of a pod; default: the context's")
    _form(explain)

    validate = add(
        "validate",
        _validate,
        "say what is wrong with SomPools in files, without a cluster",
        status="Exit status: 0 nothing is wrong; 1 something is; 2 a file cannot be read.",
    )
    validate.add_argument(
        "-f", "--filename", action="append", required=True, metavar="FILE", help="as for plan"
    )

    gather = add(
        "must-gather",
        _gather,
        "write an archive for whoever helps you, without secrets",
        more="Objects, Events, logs and metrics of som; of other pods what they request and how "
        "they stand. Values of environment variables, Secrets and tokens are left out.",
        status="Exit status: 0 everything is in it; 1 something is missing, and index.txt in it "
        "says what; 2 there is none.",
    )
    gather.add_argument(
        "-f", "--file", default="", help="default: som-must-gather-TIME.tar.gz, here"
    )
    gather.add_argument(
        "--node",
        action="append",
        default=[],
        metavar="NODE",
        help="logs of these nodes' agents; default: of 20, first those that are not ready",
    )
    uninstall = add(
        "uninstall",
        _uninstall,
        "give all som memory back, before the release is deleted",
        more="What `helm uninstall` does by its hook, for installations without one: a job of the "
        "installed operator's image stops the operator, has every node give its memory back, and "
        "lets go of the pools. While pods hold memory it refuses, and changes nothing.",
        status="Exit status: 0 all memory is given back; 1 not all, and the output says why; 2 an "
        "error, and nothing was begun.",
    )
    uninstall.add_argument(
        "--timeout", type=int, default=240, metavar="SECONDS", help="default: %(default)s"
    )
    uninstall.add_argument("-y", "--yes", action="store_true", help="do not ask")
    completion = commands.add_parser(
        "completion",
        help="print the completion of a shell",
        description="Print what a shell reads to complete `kubectl-som`. `kubectl som` itself is "
        "completed by kubectl, where an executable kubectl_complete-som is on PATH.",
    )
    completion.add_argument("shell", choices=["bash", "zsh", "fish"])
    completion.set_defaults(run=_completion, **{f"kubectl_{flag}": None for flag in _PASSED_ON})
    completion.set_defaults(system_namespace="")
    return result


def commands() -> dict[str, argparse.ArgumentParser]:
    """The command line of each command, by name."""
    found = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(next(found).choices)


def _flags() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(add_help=False)
    group = flags.add_argument_group("as kubectl's")
    for flag, metavar in _PASSED_ON.items():
        group.add_argument(f"--{flag}", metavar=metavar, dest=f"kubectl_{flag}", help=None)
    group.add_argument(
        "--system-namespace",
        default="",
        metavar="NAMESPACE",
        help="where som is installed; default: where its operator is",
    )
    return flags


def _namespace(command: argparse.ArgumentParser) -> None:
    command.add_argument("-n", "--namespace", default="", help="default: the context's")
    command.add_argument("-A", "--all-namespaces", action="store_true", help="in all namespaces")


def _form(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-o", "--output", choices=["json", "yaml"], default="", help="default: for people"
    )


def main(arguments: Sequence[str] | None = None, program: kubectl.Kubectl | None = None) -> int:
    """Entry point; the exit status. `program` is kubectl."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["__complete"]:
        return complete(words[1:])
    chosen = parser().parse_args(words)
    try:
        return _run(chosen, program or kubectl.Program(_passed_on(chosen)))
    except SomError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        # `kubectl som nodes | head`: nobody reads on. Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINE
    except KeyboardInterrupt:
        return 130


def complete(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `kubectl_complete-som`: prints what could be next, and the directive."""
    from som_kubectl import completion

    words = sys.argv[1:] if arguments is None else arguments
    found, directive = completion.candidates(words, parser(), commands())
    print("\n".join([*found, f":{directive}"]))
    return FINE


def _run(chosen: argparse.Namespace, program: kubectl.Kubectl) -> int:
    from som_kubectl import cluster

    status: int = chosen.run(chosen, cluster.Cluster(program, chosen.system_namespace))
    sys.stdout.flush()
    return status


def _passed_on(chosen: argparse.Namespace) -> list[str]:
    found = {flag: getattr(chosen, f"kubectl_{flag}") for flag in _PASSED_ON}
    return [f"--{flag}={value}" for flag, value in found.items() if value is not None]


# Each command imports what it needs, so that --help and completion wait for nothing.


def _status(chosen: argparse.Namespace, there: "cluster.Cluster") -> int:
    from som_kubectl import status

    return _look(chosen, there, lambda: status.show_status(there, chosen.output))


def _pools(chosen: argparse.Namespace, there: "cluster.Cluster") -> int:
    from som_kubectl import output, show

    def once() -> int:
        rows = _named(show.pools(*there.pools()), chosen.names, "pool")
        output.rows(rows, show.pools_table(rows), chosen.output, nothing="there is no SomPool")
        return FINE if all(row.ready == "True" for row in rows) else AMISS

    return _look(chosen, there, once)


def _nodes(chosen: argparse.Namespace, there: "cluster.Cluster") -> int:
    from som_kubectl import cluster, output, show

    def once() -> int:
        somnodes, kubelets = cluster.together(there.somnodes, there.nodes)
        rows = _named(show.nodes(somnodes, kubelets), chosen.names, "SomNode")
        rows = [row for row in rows if chosen.pool in (None, *row.pools)]
        rows = [row for row in rows if not (chosen.not_ready and row.ready)]
        output.rows(rows, show.nodes_table(rows), chosen.output, nothing="there is no such node")
        return FINE if all(row.ready for row in rows) else AMISS

    return _look(chosen, there, once)


def _leases(chosen: argparse.Namespace, there: "cluster.Cluster") -> int:
    from som_kubectl import output, show

    def once() -> int:
        rows = [row for row in _all_leases(chosen, there) if chosen.node in (None, row.node)]
        shown = show.leases_table(rows, datetime.datetime.now(datetime.UTC))
        output.rows(rows, shown, chosen.output, nothing="no container requests som memory here")
        return FINE

    return _look(chosen, there, once)


def _all_leases(chosen: argparse.Namespace, there: "cluster.Cluster") -> "list[show.Lease]":
    from som_kubectl import output, show

    collection = _pods_of(chosen, there)
    try:
        somnodes = there.somnodes()
    except kubectl.Refused as error:
        if error.reason != "Forbidden":
            raise
        output.note(f"without pools: {error.answer}")
        somnodes = {}
    return list(show.leases(kubectl.items(there.program, collection), somnodes))


def _pods_of(chosen: argparse.Namespace, there: "cluster.Cluster") -> str:
    from som_kubectl import cluster

    if chosen.all_namespaces:
        return cluster.PODS
    namespace = chosen.namespace or there.own_namespace()
    return kubectl.path("api/v1/namespaces", namespace, "pods").lstrip("/")


def _top(chosen: argparse.Namespace, there: "cluster.Cluster") -> int:
    from som_kubectl import cluster, output, show, top

    def once() -> int:
        if chosen.of == "pods":
            rows = top.pods(_all_leases(chosen, there))
        elif chosen.of == "pools":
            rows = top.pools(show.pools(*there.pools()))
        else:
            rows = top.nodes(show.nodes(*cluster.together(there.somnodes, there.nodes)))
        output.rows(rows, top.as_table(rows), chosen.output, nothing="nobody has som memory here")
        return FINE

    return _look(chosen, there, once)


def _plan(chosen: argparse.Namespace, there: "cluster.Cluster") -> int:
    from som_kubectl import plan_command

    return plan_command.run(there, chosen.filename, chosen.delete, chosen.output)


def _explain(chosen: argparse.Namespace, there: "cluster.Cluster") -> int:
    from som_kubectl import explain

    return explain.run(there, chosen.name, chosen.namespace, chosen.output)


def _gather(chosen: argparse.Namespace, there: "cluster.Cluster") -> int:
    from som_kubectl import gather, output

    return gather.run(there, chosen.file, chosen.node, output.note)


def _uninstall(chosen: argparse.Namespace, there: "cluster.Cluster") -> int:
    from som_kubectl import uninstall

    return uninstall.run(there, timeout_s=chosen.timeout, yes=chosen.yes)


def _completion(chosen: argparse.Namespace, _: "cluster.Cluster") -> int:
    from som_kubectl import completion

    sys.stdout.write(completion.script(chosen.shell))
    return FINE


def _validate(chosen: argparse.Namespace, _: "cluster.Cluster") -> int:
    from som_kubectl import manifests, output

    found = manifests.read(chosen.filename)
    for other in found.others:
        output.note(f"{other} is not som's; not looked at")
    for fault in found.faults:
        print(fault)
    if found.faults:
        return AMISS
    print(f"{len(found.pools)} SomPool{'s' if len(found.pools) > 1 else ''}: nothing is wrong")
    return FINE


def _named(rows: list[R], names: Sequence[str], kind: str) -> list[R]:
    """Those of the names that a person wrote; a name without a row is an error."""
    if not names:
        return rows
    by_name = {row.name: row for row in rows}
    missing = [name for name in names if name not in by_name]
    if missing:
        raise kubectl.Refused(f"look for {kind} {', '.join(missing)}", "NotFound", "there is none")
    return [by_name[name] for name in dict.fromkeys(names)]


def _look(chosen: argparse.Namespace, there: "cluster.Cluster", once: Callable[[], int]) -> int:
    if not chosen.watch:
        return once()
    from som_kubectl import watching

    return watching.show_again(there.program, once)


if __name__ == "__main__":
    sys.exit(main())
