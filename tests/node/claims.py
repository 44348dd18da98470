"""Owners of leases that do what a test tells them: `programs/claim.c` under `som local run`."""

import contextlib
import os
import random
import subprocess
import sys
import time

from node import local_node, machine

PAGE = machine.PAGE


class Claim:
    """A program with `units` pages at /dev/som. Its answers are lines; see `claim.c`."""

    def __init__(
        self, node: local_node.LocalNode, units: int, *, program: str, user: str = "1000:1000"
    ) -> None:
        self.units = units
        self._text = b""
        self._lines: list[str] = []
        command = [local_node.SOM, "local", "run", "--state-dir", str(node.state_dir.path)]
        command += ["--user", user, "--request", f"som.io/2Mi={units}", "--", program]
        pipe = subprocess.PIPE
        self.process = node.start(command, stdin=pipe, stdout=pipe, stderr=node.log)
        assert self.process.stdin and self.process.stdout
        self._stdin, self._stdout = self.process.stdin, self.process.stdout
        os.set_blocking(self._stdout.fileno(), False)

    def tell(self, order: str) -> None:
        """Give an order without waiting."""
        self._stdin.write(f"{order}\n".encode())
        self._stdin.flush()

    def heard(self) -> str | None:
        """The next line if there is one, without waiting; "" at the program's end."""
        if self._lines:
            return self._lines.pop(0)
        try:
            read = os.read(self._stdout.fileno(), 65536)
        except BlockingIOError:
            return None
        if not read:
            return ""
        *lines, self._text = (self._text + read).split(b"\n")
        self._lines = [line.decode() for line in lines]
        return self._lines.pop(0) if self._lines else None

    def answer(self, order: str = "", *, deadline_s: float = 120) -> str:
        """What it answers to `order`; without one, its next line."""
        if order:
            self.tell(order)
        end = time.monotonic() + deadline_s
        while (line := self.heard()) is None:
            assert time.monotonic() < end, f"no answer to {order!r} within {deadline_s} s"
            time.sleep(0.02)
        return line

    def nodes(self) -> list[int]:
        """The NUMA node of each page."""
        return [int(node) for node in self.answer("nodes").split()[1:]]

    def let_end(self) -> None:
        """Close its stdin: it ends by itself."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()

    def end(self, *, deadline_s: float = 60) -> int:
        """Let it end by itself: its exit status."""
        self.let_end()
        status = self.process.wait(deadline_s)
        self._stdout.close()
        return status


def token(rng: random.Random) -> int:
    """A pattern that no other owner has."""
    return rng.randrange(1, 2**63)


def seed_of(variable: str) -> int:
    """The seed that the environment gives, or a new one."""
    return int(os.environ.get(variable) or random.randrange(2**32))


def note(text: str) -> None:
    """For the reader of a test's output."""
    print(text, file=sys.stderr, flush=True)
