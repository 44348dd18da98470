"""`som`: som memory on this machine, without Kubernetes."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from som_device_plugin import SomError, __version__
from som_device_plugin.local import layout

FAILED = 1
WRONG = 2
INTERRUPTED = 130


def parser() -> argparse.ArgumentParser:
    """The command line of `som`."""
    result = argparse.ArgumentParser(prog="som", description=__doc__)
    result.add_argument("--version", action="version", version=f"som {__version__}")
    local = result.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "local", help="pools and programs of this machine"
    )
    commands = local.add_subparsers(required=True, metavar="COMMAND")

    up = commands.add_parser(
        "up",
        help="reserve a pool, or change it",
        description="Reserve the pool of a SomPool YAML. Exit status: 0 all of it, 1 nothing, "
        "2 wrong file or machine, 3 a part of it.",
    )
    up.add_argument("-f", "--file", required=True, help="a SomPool in YAML; - is standard input")
    up.set_defaults(command=_up)

    run = commands.add_parser(
        "run",
        help="run a program with som memory at /dev/som",
        description="Run PROGRAM with som memory of its own at /dev/som, until it ends. Exit "
        "status: the program's, or 128 + the signal that ended it; 1 if it was not started.",
    )
    run.add_argument(
        "--request",
        required=True,
        type=_request,
        metavar="som.io/UNIT=COUNT",
        help="how much, such as som.io/2Mi=64 for 128 MiB",
    )
    run.add_argument(
        "--user", type=_user, metavar="UID[:GID]", help="run it as this user, without capabilities"
    )
    run.add_argument("program", nargs=argparse.REMAINDER, metavar="-- PROGRAM ARGS...")
    run.set_defaults(command=_run)

    status = commands.add_parser("status", help="show pools and programs")
    status.set_defaults(command=_status)

    down = commands.add_parser(
        "down", help="give everything back", description="Give all memory back to the machine."
    )
    down.add_argument("--force", action="store_true", help="end the programs that still run")
    down.set_defaults(command=_down)

    for command in (up, run, status, down):
        command.add_argument(
            "--state-dir", type=Path, default=layout.DEFAULT, help="default: %(default)s"
        )
        command.add_argument(
            "--output", choices=["text", "json"], default="text", help="json for scripts"
        )
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; the exit status."""
    chosen = parser().parse_args(arguments)
    try:
        status: int = chosen.command(chosen, layout.StateDir(chosen.state_dir.absolute()))
        return status
    except SomError as error:
        print(f"som: {error}", file=sys.stderr)
        return FAILED
    except PermissionError as error:
        print(
            f"som: {error.filename}: {error.strerror}; run it as root, with sudo", file=sys.stderr
        )
        return WRONG
    except KeyboardInterrupt:
        print("som: interrupted; `som local down` gives everything back", file=sys.stderr)
        return INTERRUPTED


# Each command imports what it needs: `run` shall start a program in milliseconds.


def _up(chosen: argparse.Namespace, state_dir: layout.StateDir) -> int:
    from som_api import v1alpha1
    from som_device_plugin.local import manifest, pool

    try:
        wanted = manifest.read(chosen.file)
    except v1alpha1.InvalidManifest as invalid:
        for fault in invalid.faults:
            print(f"som: {chosen.file}: {fault}", file=sys.stderr)
        return WRONG
    if wanted.spec.paused:
        print(f"som: {wanted.metadata.name} is paused: nothing was changed", file=sys.stderr)
        return 0
    if wanted.spec.node_selector:
        print("som: spec.nodeSelector: this machine has no labels; ignored", file=sys.stderr)
    try:
        outcome = pool.up(wanted, state_dir, quiet=chosen.output == "json")
    except pool.UnfitMachine as unfit:
        print(f"som: {unfit}", file=sys.stderr)
        return WRONG
    print(outcome.to_json() if chosen.output == "json" else outcome)
    return outcome.exit_code


def _run(chosen: argparse.Namespace, state_dir: layout.StateDir) -> int:
    from som_device_plugin.local import run

    program = chosen.program[1:] if chosen.program[:1] == ["--"] else chosen.program
    if not program:
        print("som: no program; write it after --", file=sys.stderr)
        return WRONG
    resource, count = chosen.request
    as_json = chosen.output == "json"
    return run.run(run.Order(program, resource, count, chosen.user, as_json), state_dir)


def _status(chosen: argparse.Namespace, state_dir: layout.StateDir) -> int:
    from som_device_plugin.local import status

    if chosen.output == "json":
        print(status.as_json(state_dir))
    else:
        status.show(state_dir)
    return 0


def _down(chosen: argparse.Namespace, state_dir: layout.StateDir) -> int:
    from som_device_plugin.local import pool

    try:
        pool.down(state_dir, force=chosen.force, quiet=chosen.output == "json")
    except pool.UnfitMachine as unfit:
        print(f"som: {unfit}", file=sys.stderr)
        return WRONG
    return 0


def _request(text: str) -> tuple[str, str]:
    resource, equals, count = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: write som.io/2Mi=64")
    return resource, count


def _user(text: str) -> tuple[int, int]:
    if not re.fullmatch("[0-9]{1,10}(:[0-9]{1,10})?", text):
        raise argparse.ArgumentTypeError(f"{text!r}: write numbers, UID or UID:GID")
    uid, _, gid = text.partition(":")
    return int(uid), int(gid or uid)


if __name__ == "__main__":
    sys.exit(main())
