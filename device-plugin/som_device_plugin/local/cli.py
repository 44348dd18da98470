"""`som`: som memory on this machine, without Kubernetes."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from som_api import VERSION, SomError
from som_device_plugin.local import Wrong, layout, units, users
from som_device_plugin.local.command import output


class Interrupted(KeyboardInterrupt):
    """A signal told this command to end."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(number)
        self.number = number


def parser() -> argparse.ArgumentParser:
    """The command line of `som`."""
    result = argparse.ArgumentParser(prog="som", description=__doc__)
    result.add_argument("--version", action="version", version=f"som {VERSION}")
    local = result.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "local", help="pools and programs of this machine"
    )
    commands = local.add_subparsers(required=True, metavar="COMMAND")

    up = commands.add_parser(
        "up",
        help="reserve a pool, or change it",
        description="Reserve the pool of a SomPool YAML. Exit status: 0 all of it; 1 nothing, or "
        "som failed; 2 wrong arguments, file or machine; 3 a part of it; 128 + the signal that "
        "interrupted it. After 1, 2 and an interruption the machine is as it was before.",
    )
    up.add_argument("-f", "--file", required=True, help="a SomPool in YAML; - is standard input")
    up.set_defaults(command=_up)

    run = commands.add_parser(
        "run",
        help="run a program with som memory at /dev/som",
        description="Run PROGRAM with som memory of its own at /dev/som, until it ends. Exit "
        "status: the program's, or 128 + the signal that ended it; 127 there is no such program, "
        "126 it cannot be executed; 1 som did not start it; 2 wrong arguments.",
    )
    run.add_argument(
        "--request",
        required=True,
        action="append",
        metavar="som.io/UNIT=COUNT",
        help="how much, such as som.io/2Mi=64 for 128 MiB",
    )
    run.add_argument(
        "--user",
        metavar="USER[:GROUP]",
        help="run it as this user, by name or number, without capabilities",
    )
    run.add_argument("program", nargs=argparse.REMAINDER, metavar="-- PROGRAM ARGS...")
    run.set_defaults(command=_run)

    status = commands.add_parser(
        "status",
        help="show pools and programs",
        description="Show pools and programs. Exit status: 0 all of the pool is there, 1 no pool "
        "is up or a process of som does not run, 2 wrong arguments, 3 a part of it is there.",
    )
    status.set_defaults(command=_status)

    down = commands.add_parser(
        "down",
        help="give everything back",
        description="Give all memory back to the machine. Exit status: 0 all of it, also when no "
        "pool is up; 1 not all, and the message says why; 2 wrong arguments or machine.",
    )
    down.add_argument("--force", action="store_true", help="end the programs that still run")
    down.set_defaults(command=_down)

    for command in (up, run, status, down):
        command.add_argument(
            "--state-dir", type=Path, default=layout.DEFAULT, help="default: %(default)s"
        )
        command.add_argument(
            "--output",
            choices=["text", "json"],
            default="text",
            help="json: one object per line on stdout, errors too; of `run` on stderr",
        )
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; the exit status."""
    chosen = parser().parse_args(arguments)
    out = output.Output(as_json=chosen.output == "json", is_run=chosen.command is _run)
    try:
        status: int = chosen.command(chosen, out)
        return status
    except Wrong as error:
        return out.error(str(error), output.WRONG)
    except SomError as error:
        return out.error(str(error), output.FAILED)
    except PermissionError as error:
        cure = "run it as root, with sudo" if os.geteuid() else "see what forbids it to root"
        return out.error(f"{error.filename}: {error.strerror}; {cure}", output.WRONG)
    except OSError as error:
        # What no part of local mode expects: the file and the kernel's answer say most.
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        return out.error(f"{where}{error.strerror or error}", output.FAILED)
    except KeyboardInterrupt as error:
        number = error.number if isinstance(error, Interrupted) else signal.SIGINT
        words = {_up: "the machine is as it was before", _down: "run `som local down` again"}
        after = words.get(chosen.command, "nothing was started")
        return out.error(f"interrupted; {after}", output.INTERRUPTED + number)


# Each command imports what it needs: `run` starts a program in milliseconds.


def _up(chosen: argparse.Namespace, out: output.Output) -> int:
    from som_api import v1alpha1
    from som_device_plugin.local.command import manifest, up

    state_dir = _state_dir(chosen)
    try:
        wanted = manifest.read(chosen.file)
    except v1alpha1.InvalidManifest as invalid:
        for fault in invalid.faults:
            out.error(f"{chosen.file}: {fault}", output.WRONG)
        return output.WRONG
    if wanted.spec.paused:
        out.note(f"{wanted.metadata.name} is paused: nothing was changed")
        return output.OK
    if wanted.spec.node_selector:
        out.note("spec.nodeSelector: this machine has no labels; ignored")
    _begin()
    outcome = up.up(wanted, state_dir, out)
    out.result("up", str(outcome), **outcome.fields())
    return outcome.exit_code


def _run(chosen: argparse.Namespace, out: output.Output) -> int:
    from som_device_plugin.local.command import run

    program = chosen.program[1:] if chosen.program[:1] == ["--"] else chosen.program
    if not program:
        raise Wrong("no program; write it after --")
    order = run.Order(
        command=program,
        request=units.parse(chosen.request),
        user=users.User.parse(chosen.user) if chosen.user is not None else None,
    )
    return run.run(order, _state_dir(chosen), out)


def _status(chosen: argparse.Namespace, out: output.Output) -> int:
    from som_device_plugin.local.command import status

    found = status.look(_state_dir(chosen))
    out.result("status", status.text(found), **status.fields(found))
    return found.exit_code


def _down(chosen: argparse.Namespace, out: output.Output) -> int:
    from som_api import v1alpha1
    from som_device_plugin.local.command import down

    state_dir = _state_dir(chosen)
    _begin()
    given_bytes = down.down(state_dir, out, force=chosen.force)
    text = (
        f"{v1alpha1.format_bytes(given_bytes)} given back to the machine"
        if given_bytes
        else f"nothing is reserved by {state_dir.path}"
    )
    out.result("down", text, given_back_bytes=given_bytes)
    return output.OK


def _state_dir(chosen: argparse.Namespace) -> layout.StateDir:
    if os.geteuid() != 0:
        raise Wrong("som local works on memory of the machine: run it as root, with sudo")
    return layout.find(chosen.state_dir)


def _begin() -> None:
    """For commands that change the machine: files are root's alone, and a signal is an error."""
    os.umask(0o077)

    def interrupt(number: int, _: FrameType | None) -> None:
        raise Interrupted(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, interrupt)


if __name__ == "__main__":
    sys.exit(main())
