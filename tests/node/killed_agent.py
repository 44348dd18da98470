"""Local mode's agent that is killed (SIGKILL) at one named step of a lease's life.

    killed_agent.py MODULE:CLASS.METHOD[=VALUE] before|during|after STATE_DIR PARENT

The agent is the real one; only this process replaces the method by one that kills. `=VALUE`: only
the call that has an enum of this value among its arguments. `during`: at the first progress.
"""

import asyncio
import enum
import functools
import importlib
import os
import signal
import sys
from typing import Any


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(step: str, when: str) -> None:
    """Replace the method that `step` names."""
    place, _, value = step.partition("=")
    module, _, name = place.partition(":")
    owner_name, _, method_name = name.partition(".")
    owner = getattr(importlib.import_module(module), owner_name)
    method = getattr(owner, method_name)

    def meant(arguments: tuple[object, ...]) -> bool:
        values = [str(each.value) for each in arguments if isinstance(each, enum.Enum)]
        return not value or value in values

    @functools.wraps(method)
    def killing(*arguments: Any, **named: Any) -> Any:
        if not meant(arguments):
            return method(*arguments, **named)
        if when == "before":
            kill()
        if when == "during":
            named["on_progress"] = lambda _: kill()
        result = method(*arguments, **named)
        if not asyncio.iscoroutine(result):
            kill()

        async def awaited() -> None:
            await result
            kill()

        return awaited()

    setattr(owner, method_name, killing)


if __name__ == "__main__":
    arm(sys.argv[1], sys.argv[2])
    sys.argv[1:3] = []
    from som_device_plugin.local import agent

    agent.main()
