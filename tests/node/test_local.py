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

from node import conftest, local_node, machine
from som_device_plugin.linux import hugepages
from som_device_plugin.local import layout, locks
from som_device_plugin.local.command import background

SOM = pathlib.Path(sys.executable).parent / "som"
PAGE = 2 * 2**20
DEADLINE_S = 180


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
        [line] = self.som("status", "--output", "json").stdout.splitlines()
        found: dict[str, Any] = json.loads(line)
        return found

    def programs(self) -> list[str]:
        return [each["pod"] for each in self.status()["programs"]]

    def pid(self, process: str) -> int:
        """Of `agent` or `kubelet`; 0 when it does not run."""
        if process == "kubelet":
            return locks.holder(layout.StateDir(self.state_dir).stand_in_lock)
        running = background.agent(layout.StateDir(self.state_dir))
        return running.pid if running else 0

    def kill(self, process: str) -> None:
        os.kill(self.pid(process), signal.SIGKILL)

    def start_owner(self, units: int) -> local_node.Program:
        """A program that has filled its memory, and says in the end whether it was its own."""
        program = local_node.Program(layout.StateDir(self.state_dir), units)
        assert program.found() == f"zero {units * PAGE}"
        return program


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
    return str(shutil.copy(program("owner"), state_dir.parent))


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
        "SOM_CONTENT=fresh",
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
    assert (status["exit_code"], status["agent_runs"], status["stand_in_runs"]) == (0, True, True)
    [program] = status["programs"]
    assert (program["units"], program["size_bytes"]) == (8, 8 * PAGE)
    assert program["pod"] in local.som("status").stdout
    running.terminate()
    assert ended(running) == 128 + signal.SIGTERM

    assert local.som("down").stdout == "64Mi given back to the machine\n"
    assert pages() == before
    down = local.som("down")
    assert (down.returncode, down.stderr) == (0, "")
    assert down.stdout == f"nothing is reserved by {local.state_dir}\n"


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
        "import os, sys; from som_device_plugin.local import cli; "
        "from som_device_plugin.local.command import manifest, up; "
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
    assert local.status()["pools"][0]["capacity_bytes"] == 32 * 2**20


def test_a_pool_above_the_guard_is_refused_before_anything_is_taken(local: Local) -> None:
    before = pages()
    done = local.som("up", "-f", "-", given=manifest("100Ti"))
    assert done.returncode == 1
    assert "stays for everybody else" in done.stdout
    assert "the machine is as it was before" in done.stdout
    assert pages() == before
    assert not local.state_dir.exists()
    local.up("64Mi")
    part = local.som("up", "-f", "-", "--output", "json", given=manifest("100Ti"))
    assert part.returncode == 3
    said = json.loads(part.stdout.splitlines()[-1])
    assert (said["exit_code"], said["capacity_bytes"]) == (3, 64 * 2**20)
    status = local.som("status")
    assert status.returncode == 3
    assert re.search(r"^demo +2Mi +64Mi +0 +64Mi +False +Refused$", status.stdout, re.MULTILINE)


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
    for wrong, code in (("som.io/3Mi=1", 2), ("som.io/2Mi=0", 2), ("som.io/1Gi=1", 1)):
        assert local.som("run", "--request", wrong, "--", "true").returncode == code
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
    command = 'trap "echo got; key=1" INT; echo ready; until [ $key ]; do sleep 0.1; done'
    command += "; sleep 0.2; exit 5"
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


def start_up(local: Local, capacity: str) -> subprocess.Popen[str]:
    process = local.start("up", "-f", "-")
    assert process.stdin
    process.stdin.write(manifest(capacity))
    process.stdin.close()
    process.stdin = None  # As communicate() wants it.
    return process


def interrupt_when_reserved(
    process: subprocess.Popen[str], agent: int, number: int, reserved: int
) -> str:
    """Stop `up` until the agent, which is stopped now, has `reserved` pages; what it says then."""
    process.send_signal(signal.SIGSTOP)
    os.kill(agent, signal.SIGCONT)
    machine.wait_until(lambda: pages() == reserved, what="all is reserved", deadline_s=DEADLINE_S)
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    said, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 128 + number
    return said


@pytest.mark.parametrize("delay_s", [0.3, 0.6, 0.9])
def test_an_up_that_was_killed_is_seen_by_status_and_undone_by_down(
    local: Local, delay_s: float
) -> None:
    before = pages()
    process = start_up(local, "512Mi")
    time.sleep(delay_s)
    process.kill()
    with process:
        status = local.status()
        ordered = (local.state_dir / "somnode.json").exists()
        assert bool(status["ordered"]) == ordered
        done = local.som("down")
    assert done.returncode == 0, done.stderr
    assert pages() == before
    assert not local.state_dir.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_up_leaves_nothing(local: Local, number: signal.Signals) -> None:
    before = pages()
    process = start_up(local, "1Gi")
    machine.wait_until(lambda: local.pid("agent"), what="it starts", deadline_s=DEADLINE_S)
    agent = local.pid("agent")
    os.kill(agent, signal.SIGSTOP)
    assert process.stdout
    assert "waiting for the agent" in process.stdout.readline()
    said = interrupt_when_reserved(process, agent, number, before + 512)
    assert said.endswith("som: interrupted; the machine is as it was before\n")
    assert pages() == before
    assert not local.state_dir.exists()


def test_an_interrupted_change_goes_back_to_the_pool_of_before(local: Local) -> None:
    local.up("64Mi")
    before = pages()
    owner = local.start_owner(20)
    orders = local.state_dir / "somnode.json"
    ordered, agent = orders.stat().st_ino, local.pid("agent")
    os.kill(agent, signal.SIGSTOP)
    process = start_up(local, "1Gi")
    machine.wait_until(
        lambda: orders.stat().st_ino != ordered, what="it waits", deadline_s=DEADLINE_S
    )
    interrupt_when_reserved(process, agent, signal.SIGINT, before + 480)
    assert pages() == before
    [pool] = local.status()["pools"]
    assert (pool["capacity_bytes"], pool["ready"]) == (64 * 2**20, "True")
    assert owner.end() == "kept"


@pytest.mark.parametrize("process", ["agent", "kubelet"])
def test_an_up_whose_process_is_killed_leaves_nothing_and_says_so(
    local: Local, process: str
) -> None:
    before = pages()
    up = start_up(local, "1Gi")
    machine.wait_until(lambda: local.pid("agent"), what="it starts", deadline_s=DEADLINE_S)
    agent = os.pidfd_open(local.pid("agent"))
    signal.pidfd_send_signal(agent, signal.SIGSTOP)
    assert up.stdout
    assert "waiting for the agent" in up.stdout.readline()
    local.kill(process)
    said, _ = up.communicate(timeout=DEADLINE_S)
    assert up.returncode == 1
    assert "has ended" in said
    with contextlib.suppress(ProcessLookupError):
        # Stopped before it could ask to end with its stand-in.
        signal.pidfd_send_signal(agent, signal.SIGKILL)
    os.close(agent)
    assert pages() == before
    assert not local.state_dir.exists()


def test_what_was_started_from_a_terminal_outlives_it(local: Local, tmp_path: pathlib.Path) -> None:
    order = tmp_path / "sompool.json"
    order.write_text(manifest())
    shell, terminal = pty.fork()
    if shell == 0:
        command = local.command("up", "-f", str(order))
        os.execv(command[0], command)
    with contextlib.suppress(OSError):  # EIO: nobody has the other side any more
        while os.read(terminal, 4096):
            pass
    assert os.waitstatus_to_exitcode(os.waitpid(shell, 0)[1]) == 0
    os.close(terminal)
    assert local.status()["exit_code"] == 0
    assert local.run("true").returncode == 0


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
    [pool] = local.status()["pools"]
    assert pool["capacity_bytes"] in (32 * 2**20, 64 * 2**20)
    assert pages() - before in (16, 32)
    assert local.run("true").returncode == 0


def test_a_stand_in_that_was_killed_finds_its_programs_and_its_agent_again(
    local: Local, owner: str
) -> None:
    local.up()
    held = pages()
    program = local.start_owner(20)
    [running] = local.programs()
    agent = pathlib.Path(f"/proc/{local.pid('agent')}/exe")
    local.kill("kubelet")
    machine.wait_until(lambda: not local.pid("kubelet"), what="the stand-in is gone")
    machine.wait_until(lambda: not agent.exists(), what="its agent is gone")
    status = local.som("status")
    assert status.returncode == 1
    assert (
        "the kubelet stand-in does not run: `som local up -f FILE` starts it; see "
        f"{local.state_dir}/kubelet.log"
    ) in status.stdout
    assert re.search("^demo .* Unknown  AgentGone$", status.stdout, re.MULTILINE)
    refused = local.run("true")
    assert refused.returncode == 1
    assert "run `som local up -f FILE` first" in refused.stderr
    local.up()
    assert pages() == held
    assert local.programs() == [running]
    assert local.run(owner, "look", units=12).stdout.split() == ["zero"]
    assert local.run("true", units=13).returncode == 1
    assert program.end() == "kept"
    machine.wait_until(lambda: local.programs() == [], what="the program is gone")
    assert local.run(owner, "look", units=32).stdout.split() == ["zero"]


def test_an_agent_that_was_killed_starts_again_and_finds_pool_and_leases(
    local: Local, owner: str
) -> None:
    local.up()
    held = pages()
    program = local.start_owner(20)
    killed = local.pid("agent")
    local.kill("agent")
    assert local.run(owner, "look", units=12).stdout.split() == ["zero"]
    assert pages() == held
    assert local.pid("agent") != killed
    assert local.status()["exit_code"] == 0
    assert program.end() == "kept"
    assert local.run(owner, "look", units=32).stdout.split() == ["zero"]


def test_a_run_whose_agent_is_killed_while_it_is_admitted_starts_all_the_same(
    local: Local, owner: str
) -> None:
    local.up()
    os.kill(local.pid("agent"), signal.SIGSTOP)
    process = local.start("run", "--request", "som.io/2Mi=4", "--", owner, "look")

    def asks() -> bool:
        with contextlib.suppress(FileNotFoundError):
            files = pathlib.Path(f"/proc/{process.pid}/fd").iterdir()
            return any(str(file.readlink()).startswith("socket:") for file in files)
        return False

    machine.wait_until(asks, what="it asks to be admitted", deadline_s=DEADLINE_S)
    local.kill("agent")
    said, _ = process.communicate(timeout=DEADLINE_S)
    # What som says before is allowed: a slow machine waits for the next agent.
    assert (said.split()[-1:], process.returncode) == (["zero"], 0)


@pytest.mark.parametrize("process", ["agent", "kubelet"])
def test_down_gives_all_back_where_a_process_was_just_killed(local: Local, process: str) -> None:
    before = pages()
    local.up()
    local.kill(process)
    done = local.som("down")
    assert done.returncode == 0, done.stderr
    # A slow machine waits for the next agent.
    assert all("waiting for the agent" in line for line in done.stderr.splitlines()), done.stderr
    assert done.stdout == "64Mi given back to the machine\n"
    assert pages() == before
    assert not local.state_dir.exists()


def test_the_directory_of_a_kubernetes_node_is_left_alone(local: Local) -> None:
    local.state_dir.mkdir()
    (local.state_dir / "som.db").touch()
    done = local.som("up", "-f", "-", given=manifest())
    assert done.returncode == 2
    assert "Kubernetes" in done.stderr
    assert local.som("down").returncode == 0
    assert (local.state_dir / "som.db").exists()
    shutil.rmtree(local.state_dir)


def test_a_program_of_another_user_cannot_type_into_roots_terminal(local: Local) -> None:
    local.up()
    typing = (
        "import fcntl, termios\n"
        "for byte in b'echo TYPED=$((6*7))\\n':\n"
        "    try: fcntl.ioctl(0, termios.TIOCSTI, bytes([byte]))\n"
        "    except OSError as error: print(error.strerror)\n"
    )
    request = ["--request", "som.io/2Mi=1", "--user", "1000"]
    run = shlex.join([*local.command("run", *request), "--", "python3", "-c", typing])
    shell, terminal = pty.fork()
    if shell == 0:
        os.execvp("sh", ["sh"])
    os.write(terminal, f"{run}; echo ended\n".encode())
    said = b""
    while said.count(b"ended") < 2:  # First as it is typed.
        said += os.read(terminal, 4096)
    # The shell reads first what the program has typed.
    os.write(terminal, b"\nexit\n")
    with contextlib.suppress(OSError):  # EIO: the shell has closed its side
        while more := os.read(terminal, 4096):
            said += more
    os.waitpid(shell, 0)
    os.close(terminal)
    assert b"Operation not permitted" in said
    assert b"TYPED=42" not in said


def test_a_mount_that_only_has_the_name_of_a_lease_is_left_alone(
    local: Local, tmp_path: pathlib.Path
) -> None:
    local.up()
    subprocess.run(["mount", "-t", "tmpfs", "som:mine", tmp_path], check=True)
    try:
        (tmp_path / "file").touch()
        assert local.run("ls", str(tmp_path)).stdout == "file\n"
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_removed_sockets_are_made_again_by_up_and_programs_live_on(
    local: Local, owner: str
) -> None:
    local.up()
    holder = local.start_run(owner, "look", "hold", units=20)
    shutil.rmtree(local.state_dir / "kubelet" / "device-plugins")
    (local.state_dir / "kubelet" / "control.sock").unlink()
    assert local.run("true").returncode == 1
    local.up()
    assert local.run(owner, "look", units=12).stdout.split() == ["zero"]
    assert holder.poll() is None
    holder.kill()
    ended(holder)
    shutil.rmtree(local.state_dir / "kubelet")
    assert local.som("down").stdout == "64Mi given back to the machine\n"


def test_down_takes_away_what_a_killed_process_left_of_a_file(local: Local) -> None:
    local.up()
    for name in (".status.json.4711", ".pods.json.new"):
        (local.state_dir / name).touch()
    assert local.som("down").returncode == 0
    assert not local.state_dir.exists()


def test_the_state_directory_is_roots_alone(local: Local) -> None:
    local.state_dir.mkdir(mode=0o755)
    local.up()
    modes = {path: path.lstat().st_mode & 0o077 for path in local.state_dir.iterdir()}
    assert {path.name for path, others in modes.items() if others} <= {"holds", "leases"}
    assert local.state_dir.stat().st_mode & 0o777 == 0o700
    assert local.run("sh", "-c", "umask").stdout == "0022\n"


def test_an_ended_program_is_never_taken_for_alive_where_the_disk_is_full(
    local: Local, owner: str
) -> None:
    local.state_dir.mkdir()
    small = ["-o", "size=16m,mode=0700"]
    subprocess.run(["mount", "-t", "tmpfs", *small, "none", local.state_dir], check=True)
    try:
        local.up()
        process = local.start_run(owner, "fill", "hold", units=20)
        filler = local.state_dir / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        process.kill()
        ended(process)
        refused = local.run("true", units=1)
        assert refused.returncode == 1
        assert "som: " in refused.stderr
        filler.unlink()
        # What the agent reported last may be from before the program.
        machine.wait_until(lambda: local.programs() == [], what="it is known to have ended")
        machine.wait_until(
            lambda: local.status()["pools"][0]["allocated_bytes"] == 0, what="its memory is free"
        )
        assert local.run(owner, "look", units=32).stdout.split() == ["zero"]
        assert local.som("down").returncode == 0
    finally:
        subprocess.run(["umount", local.state_dir], check=True)
        local.state_dir.rmdir()


def test_up_on_a_full_disk_takes_nothing_and_says_so(local: Local) -> None:
    before = pages()
    local.state_dir.mkdir()
    small = ["-o", "size=64k,mode=0700"]
    subprocess.run(["mount", "-t", "tmpfs", *small, "none", local.state_dir], check=True)
    try:
        done = local.som("up", "-f", "-", given=manifest())
        assert done.returncode == 2
        [line] = done.stderr.splitlines()
        assert "make room" in line
        assert pages() == before
    finally:
        subprocess.run(["umount", local.state_dir], check=True)
        local.state_dir.rmdir()


def test_scripts_read_one_object_per_line_from_every_command(local: Local) -> None:
    def said(*arguments: str, given: str = "") -> list[dict[str, Any]]:
        done = local.som(arguments[0], "--output", "json", *arguments[1:], given=given)
        ours, other = done.stdout, done.stderr
        if arguments[0] == "run":
            ours, other = other, ours
        assert other == ""
        objects = [json.loads(line) for line in ours.splitlines()]
        # On a slow machine they say that they wait.
        return [each for each in objects if each["event"] not in ("note", "waiting")]

    [up] = said("up", "-f", "-", given=manifest())
    assert (up["event"], up["capacity_bytes"], up["wanted_bytes"]) == ("up", 2**26, 2**26)
    run = said("run", "--request", "som.io/2Mi=4", "--", "sh", "-c", "exit 3")
    assert [each["event"] for each in run] == ["admitted", "ready", "exited"]
    assert (run[1]["size_bytes"], run[2]["exit_code"]) == (8 * 2**20, 3)
    [refused] = said("run", "--request", "som.io/2Mi=99", "--", "true")
    assert (refused["event"], refused["exit_code"]) == ("error", 1)
    [status] = said("status")
    assert status["pools"][0]["free_bytes"] <= 2**26
    assert said("down") == [{"event": "down", "given_back_bytes": 2**26}]
    assert said("down") == [{"event": "down", "given_back_bytes": 0}]
