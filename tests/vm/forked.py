"""Starts som's processes as forks of this one, which has imported everything.

The emulated processor takes half a minute to import the agent. A fork is the same program in a
process of its own, only not loaded again.
"""

import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from node import killed_agent, local_node, stand_in_alone
from som_device_plugin.local import agent, cli


def start(command: Sequence[object], **options: Any) -> "subprocess.Popen[bytes]":
    """Like `subprocess.Popen`, without exec where the command is one of som's."""
    words = [str(word) for word in command]
    body = _body(words)

    def become() -> None:
        # The pipe by which Popen waits for exec is among those closed.
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        sys.stdin, sys.stdout, sys.stderr = (
            open(fd, mode, buffering=1)  # noqa: PTH123, SIM115
            for fd, mode in ((0, "r"), (1, "w"), (2, "w"))
        )
        sys.argv = words
        os._exit(_status(body))

    return subprocess.Popen([str(word) for word in command], preexec_fn=become, **options)


def _body(words: list[str]) -> Callable[[], int | None]:
    if words[0] == str(local_node.SOM):
        return lambda: cli.main(words[1:])
    del words[0]
    if words[0] == stand_in_alone.__file__:
        return stand_in_alone.main
    if words[0] == str(local_node.KILLED):
        step, when = words[1:3]
        del words[1:3]
        return lambda: _killed_agent(step, when)
    if words[:2] == ["-m", agent.__name__]:
        del words[0]
        return agent.main
    raise ValueError(f"not one of som's programs: {words}")


def _killed_agent(step: str, when: str) -> None:
    killed_agent.arm(step, when)
    agent.main()


def _status(body: Callable[[], int | None]) -> int:
    try:
        return body() or 0
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
            return 1
        return int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
