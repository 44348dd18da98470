"""`som local` as a user meets it: commands, their exit status, and what programs see."""

import contextlib
import json
import os
import pathlib
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import pytest

from node import conftest, machine
from som_device_plugin.linux import hugepages

SOM = pathlib.Path(sys.executable).parent / "som"
PAGE = 2 * 2**20
DEADLINE_S = 60


def manifest(capacity: str = "64Mi", **changes: object) -> str:
    """A SomPool in YAML (JSON is YAML)."""
    spec = {"unit": "2Mi", "capacity": capacity, "source": {"hugeTLB": {"pageSize": "2Mi"}}}
    pool = {"apiVersion": "som.io/v1alpha1", "kind": "SomPool", "metadata": {"name": "demo"}}
    return json.dumps({**pool, "spec": {**spec, **changes}})


class Local:
    """`som local` on a state directory."""

    def __init__(self, state_dir: pathlib.Path) -> None:
        self.state_dir = state_dir

    def command(self, *arguments: str) -> list[str]:
        return [str(SOM), "local", arguments[0], "--state-dir", str(self.state_dir), *arguments[1:]]

    def som(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            input=given,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def up(self, capacity: str = "64Mi") -> None:
        done = self.som("up", "-f", "-", given=manifest(capacity))
        assert done.returncode == 0, done.stderr

    def run(self, *command: str, units: int = 4) -> subprocess.CompletedProcess[str]:
        return self.som("run", "--request", f"som.io/2Mi={units}", "--", *command)

    def start_run(self, *command: str, units: int = 4) -> subprocess.Popen[str]:
        """Starts `owner`, and returns after its first line; what `som` says before is allowed."""
        process = self.start("run", "--request", f"som.io/2Mi={units}", "--", *command)
        assert process.stdout
        for line in process.stdout:
            if line.strip() in ("zero", "filled"):
                return process
            print(line, end="")
        raise AssertionError("the program did not start")

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.som("status", "--output", "json").stdout)
        return found

    def programs(self) -> list[str]:
        return [each["pod"] for each in self.status()["programs"]]

    def kill(self, daemon: str) -> None:
        pid = int((self.state_dir / f"{daemon}.pid").read_text())
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def state_dir() -> Iterator[pathlib.Path]:
    """Short, for the sockets in it; its parent can be entered by every user."""
    parent = pathlib.Path(tempfile.mkdtemp(prefix="som-"))
    parent.chmod(0o755)
    yield parent / "s"
    shutil.rmtree(parent)


@pytest.fixture
def local(own_machine: machine.Snapshot, state_dir: pathlib.Path) -> Iterator[Local]:
    """Nothing is up yet; everything is given back in the end."""
    som = Local(state_dir)
    yield som
    done = som.som("down", "--force")
    assert done.returncode == 0, done.stderr
    assert not state_dir.exists()


@pytest.fixture
def owner(state_dir: pathlib.Path, program: conftest.Programs) -> str:
    """The program `owner`, where every user can run it."""
    return shutil.copy(program("owner"), state_dir.parent)


def pages() -> int:
    return sum(hugepages.node_counts(PAGE, node).persistent for node in hugepages.nodes())


def ended(process: subprocess.Popen[str]) -> int:
    process.communicate(timeout=DEADLINE_S)
    return process.returncode


def test_up_run_status_down(local: Local, owner: str) -> None:
    before = pages()
    up = local.som("up", "-f", "-", given=manifest())
    assert up.returncode == 0
    assert re.match(r"pool demo: 64Mi of 64Mi reserved, 32 pages of 2Mi, in [0-9.]+ s", up.stdout)
    assert pages() == before + 32

    shown = local.run("env")
    assert shown.returncode == 0
    assert {line for line in shown.stdout.splitlines() if line.startswith("SOM_")} == {
        "SOM_DEVICE=/dev/som",
        "SOM_DRIVER=HugeTLBFS",
        "SOM_UNIT=2Mi",
        f"SOM_BYTES={4 * PAGE}",
    }
    assert local.run(owner, "look", "fill", "beyond", "own").stdout.split() == [
        "zero",
        "filled",
        "ENOMEM",
        "ENOMEM",
    ]
    assert local.run(owner, "look", units=32).stdout.split() == ["zero"]

    running = local.start_run(owner, "look", "hold", units=8)
    status = local.status()
    assert (status["agent"], status["standIn"]) == (True, True)
    [program] = status["programs"]
    assert (program["units"], program["bytes"]) == (8, 8 * PAGE)
    assert program["pod"] in local.som("status").stdout
    running.terminate()
    assert ended(running) == 128 + signal.SIGTERM

    assert local.som("down").returncode == 0
    assert pages() == before
    assert local.som("down").returncode == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (manifest(size=1), "spec.size: unknown field"),
        (manifest("3Mi"), "spec.capacity: 3Mi is not a positive multiple of the unit"),
        (manifest("lots"), "spec.capacity: 'lots' is not a quantity"),
        (manifest().replace("SomPool", "Pod"), "kind: 'Pod' is not possible here"),
        ("", "is empty"),
        ("\x01\x02", "special characters"),
        (f"{manifest()}\n---\n{manifest()}", "has 2 documents"),
    ],
)
def test_a_wrong_file_is_refused_and_nothing_is_reserved(
    local: Local, text: str, expected: str
) -> None:
    before = pages()
    done = local.som("up", "-f", "-", given=text)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert expected in line
    assert pages() == before
    assert not local.state_dir.exists()


def test_without_root_the_cure_is_said_and_nothing_is_done(local: Local) -> None:
    # Imports first: another user may not read the virtual environment.
    code = (
        "import os, sys; from som_device_plugin.local import cli, manifest, pool; "
        "os.setuid(1000); sys.exit(cli.main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *local.command("up", "-f", "-")[1:]],
        input=manifest(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "root" in done.stderr
    assert not local.state_dir.exists()


def test_up_again_applies_what_changed(local: Local) -> None:
    before = pages()
    for capacity, expected in (("64Mi", 32), ("96Mi", 48), ("96Mi", 48), ("32Mi", 16)):
        local.up(capacity)
        assert pages() == before + expected
    assert local.status()["node"]["pools"][0]["capacity"] == "32Mi"


def test_a_pool_above_the_guard_is_refused_before_anything_is_taken(local: Local) -> None:
    before = pages()
    done = local.som("up", "-f", "-", given=manifest("100Ti"))
    assert done.returncode == 1
    assert "stays for everybody else" in done.stdout
    assert pages() == before
    local.up("64Mi")
    part = local.som("up", "-f", "-", "--output", "json", given=manifest("100Ti"))
    assert part.returncode == 3
    said = json.loads(part.stdout)
    assert (said["exit_code"], said["capacity_bytes"]) == (3, 64 * 2**20)


def test_two_programs_see_nothing_of_each_other(local: Local, owner: str) -> None:
    local.up()
    first = local.start_run(owner, "fill", "hold")
    look = (
        f"{owner} look; ls {local.state_dir} /dev/pts; ls -d /proc/[0-9]* | wc -l; "
        "grep -c ' som:' /proc/self/mountinfo; ls /sys/fs/cgroup > /dev/null; "
        "echo 1 > /proc/sys/vm/nr_hugepages"
    )
    second = local.run("sh", "-c", look)
    lines = second.stdout.split()
    assert lines[0] == "zero"
    assert lines[1:4] == ["/dev/pts:", "ptmx", f"{local.state_dir}:"]
    assert int(lines[4]) <= 5
    assert lines[5] == "1"
    assert "Read-only file system" in second.stderr
    first.kill()
    ended(first)


def test_the_next_owner_reads_zeroes(local: Local, owner: str) -> None:
    local.up()
    assert local.run(owner, "look", "fill", units=32).stdout.split() == ["zero", "filled"]
    assert local.run(owner, "look", units=32).stdout.split() == ["zero"]


def test_an_unprivileged_user_has_memory_and_no_capabilities(local: Local, owner: str) -> None:
    local.up()
    command = ["--", "sh", "-c", f"{owner} look fill own; id -u; id -g; cat /proc/self/status"]
    done = local.som("run", "--request", "som.io/2Mi=4", "--user", "1000:1001", *command)
    assert done.stdout.split()[:5] == ["zero", "filled", "ENOMEM", "1000", "1001"]
    assert "CapEff:\t0000000000000000" in done.stdout
    assert "CapBnd:\t0000000000000000" in done.stdout
    assert "NoNewPrivs:\t1" in done.stdout


def test_the_exit_status_is_the_programs(local: Local) -> None:
    local.up()
    for command, status in (
        ("sh -c 'exit 7'", 7),
        ("sh -c 'kill -9 $$'", 128 + signal.SIGKILL),
        ("sh -c 'kill -SEGV $$'", 128 + signal.SIGSEGV),
        ("no-such-program", 127),
        ("/etc/passwd", 126),
    ):
        assert local.run(*shlex.split(command)).returncode == status, command


def test_more_than_is_free_is_refused_with_the_count(local: Local, owner: str) -> None:
    local.up()
    holder = local.start_run(owner, "look", "hold", units=20)
    done = local.run("true", units=13)
    assert done.returncode == 1
    assert "som.io/2Mi: 13 requested, 12 free of 32 (in use: owner-" in done.stderr
    for wrong in ("som.io/3Mi=1", "som.io/2Mi=0", "som.io/1Gi=1"):
        assert local.som("run", "--request", wrong, "--", "true").returncode == 1
    holder.kill()
    ended(holder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_run_is_ended_its_program_ends_and_its_units_are_free(
    local: Local, owner: str, number: signal.Signals
) -> None:
    local.up()
    process = local.start_run(owner, "look", "hold", units=32)
    process.send_signal(number)
    expected = -number if number == signal.SIGKILL else 128 + number
    assert ended(process) == expected
    machine.wait_until(lambda: local.programs() == [], what="the program is gone")
    assert local.run(owner, "look", units=32).stdout.split() == ["zero"]


def test_a_key_of_the_terminal_reaches_the_program_once(local: Local) -> None:
    local.up()
    command = 'trap "echo got" INT; echo ready; sleep 2; sleep 0.2; exit 5'
    run = local.command("run", "--request", "som.io/2Mi=1", "--", "sh", "-c", command)
    process, terminal = pty.fork()
    if process == 0:
        os.execv(run[0], run)
    said = b""
    while b"ready" not in said:
        said += os.read(terminal, 1024)
    os.write(terminal, b"\x03")
    with contextlib.suppress(OSError):  # EIO: the program has closed its side
        while more := os.read(terminal, 1024):
            said += more
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 5
    assert said.count(b"got") == 1
    os.close(terminal)


def test_down_refuses_while_programs_run_and_ends_them_when_forced(
    local: Local, owner: str
) -> None:
    local.up()
    before = pages()
    process = local.start_run(owner, "look", "hold")
    refused = local.som("down")
    assert refused.returncode == 1
    assert "programs run with som memory: owner-" in refused.stderr
    assert pages() == before
    assert process.poll() is None
    assert local.som("down", "--force").returncode == 0
    assert ended(process) == 128 + signal.SIGKILL


@pytest.mark.parametrize("delay_s", [0.3, 0.6, 0.9])
def test_an_interrupted_up_is_undone_by_down(local: Local, delay_s: float) -> None:
    before = pages()
    process = local.start("up", "-f", "-")
    assert process.stdin
    process.stdin.write(manifest("512Mi"))
    process.stdin.close()
    time.sleep(delay_s)
    process.kill()
    with process:
        done = local.som("down")
    assert done.returncode == 0, done.stderr
    assert pages() == before
    assert not local.state_dir.exists()


def test_two_ups_at_once_are_one_after_the_other(local: Local) -> None:
    before = pages()
    both = [local.start("up", "-f", "-") for _ in range(2)]
    for process, capacity in zip(both, ("32Mi", "64Mi"), strict=True):
        assert process.stdin
        process.stdin.write(manifest(capacity))
        process.stdin.close()
    for process in both:
        with process:
            assert process.wait(DEADLINE_S) == 0
    [pool] = local.status()["node"]["pools"]
    assert pool["capacity"] in ("32Mi", "64Mi")
    assert pages() - before in (16, 32)
    assert local.run("true").returncode == 0


def test_a_stand_in_that_was_killed_finds_its_programs_and_its_agent_again(
    local: Local, owner: str
) -> None:
    local.up()
    process = local.start_run(owner, "fill", "hold", units=20)
    [running] = local.programs()
    local.kill("kubelet")
    machine.wait_until(lambda: not local.status()["standIn"], what="the stand-in is gone")
    assert local.run("true").returncode == 1
    local.up()
    assert local.programs() == [running]
    assert local.run(owner, "look", units=12).stdout.split() == ["zero"]
    assert local.run("true", units=13).returncode == 1
    process.terminate()
    assert ended(process) == 128 + signal.SIGTERM
    machine.wait_until(lambda: local.programs() == [], what="the program is gone")
    assert local.run(owner, "look", units=32).stdout.split() == ["zero"]


def test_an_agent_that_was_killed_finds_pool_and_leases_again(local: Local, owner: str) -> None:
    local.up()
    held = pages()
    process = local.start_run(owner, "fill", "hold", units=20)
    local.kill("agent")
    machine.wait_until(lambda: not local.status()["agent"], what="the agent is gone")
    assert "agent does not run" in local.som("status").stdout
    local.up()
    assert pages() == held
    assert local.run(owner, "look", units=12).stdout.split() == ["zero"]
    assert process.poll() is None
    process.terminate()
    assert ended(process) == 128 + signal.SIGTERM
    assert local.run(owner, "look", units=32).stdout.split() == ["zero"]


def test_the_directory_of_a_kubernetes_node_is_left_alone(local: Local) -> None:
    local.state_dir.mkdir()
    (local.state_dir / "som.db").touch()
    done = local.som("up", "-f", "-", given=manifest())
    assert done.returncode == 2
    assert "Kubernetes" in done.stderr
    shutil.rmtree(local.state_dir)
