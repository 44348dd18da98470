"""The agent's process under the stand-in, with a small script in its place."""

import asyncio
import os
import pathlib
import sys
from collections.abc import AsyncIterator

import pytest

from som_device_plugin.local import layout
from som_device_plugin.local.stand_in import agent_pod
from waiting import until


@pytest.fixture
async def pod(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[agent_pod.AgentPod]:
    """One whose agent lives until it is killed."""
    script = tmp_path / "python"
    script.write_text('#!/bin/sh\necho "$@" >> "$0.said"; exec sleep 60\n')
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    result = agent_pod.AgentPod(layout.StateDir(tmp_path))
    running = asyncio.create_task(result.run())
    yield result
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert result.pid == 0


async def test_an_agent_that_has_ended_starts_again_by_itself(
    pod: agent_pod.AgentPod, tmp_path: pathlib.Path
) -> None:
    said, words = tmp_path / "python.said", f"-m som_device_plugin.local.agent {tmp_path}"
    once = f"{words} {os.getpid()}\n"
    await until(lambda: pod.pid and said.exists() and said.read_text() == once)
    first = pod.pid
    os.kill(first, 9)
    await until(lambda: pod.ended == 1)
    await until(lambda: pod.pid not in (0, first))
    await until(lambda: said.read_text() == 2 * once)


async def test_a_pause_ends_when_somebody_wants_the_agent_now(
    pod: agent_pod.AgentPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    await until(lambda: pod.pid)
    # The next pause would be some 300 s.
    pod._pauses._first_s = pod._pauses._longest_s = 600.0
    os.kill(pod.pid, 9)
    await until(lambda: pod.ended == 1)
    pod.start_now()
    await until(lambda: pod.pid)


async def test_what_cannot_be_started_is_tried_again(
    pod: agent_pod.AgentPod, tmp_path: pathlib.Path
) -> None:
    await until(lambda: pod.pid)
    (tmp_path / "python").rename(tmp_path / "away")
    os.kill(pod.pid, 9)
    await until(lambda: pod.ended == 2)
    (tmp_path / "away").rename(tmp_path / "python")
    pod.start_now()
    await until(lambda: pod.pid)


async def test_the_agent_ends_with_who_runs_it(pod: agent_pod.AgentPod) -> None:
    await until(lambda: pod.pid)
