import pathlib

import pytest

from som_api import v1alpha1
from som_device_plugin.local import layout, orders
from som_device_plugin.local.command import background, status

READY = v1alpha1.Condition(type="Ready", status="True", reason="Reserved")
POOL = v1alpha1.PoolStatus(
    name="demo", generation=1, unit="2Mi", capacity=2**26, allocated=0, free=0, conditions=(READY,)
)


@pytest.mark.parametrize(
    ("agent", "exit_code", "expected"),
    [
        (background.Agent(pid=7, ended=1), 0, "Reserved"),
        (background.Agent(pid=0, ended=1), 1, "the agent has ended and is started again; see "),
        (None, 1, "the kubelet stand-in does not run: `som local up -f FILE` starts it; see "),
    ],
)
def test_a_process_that_does_not_run_is_said_with_what_happens_next(
    agent: background.Agent | None, exit_code: int, expected: str, tmp_path: pathlib.Path
) -> None:
    found = status.Found(
        state_dir=layout.StateDir(tmp_path),
        agent=agent,
        ordered=(),
        node=v1alpha1.SomNodeStatus(pools=(POOL,)),
        running=(),
    )
    assert orders.ready(POOL) is READY
    assert found.exit_code == exit_code
    assert expected in status.text(found)
    assert ("AgentGone" in status.text(found)) == bool(exit_code)
