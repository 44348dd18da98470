"""The stand-in looks CDI devices up as a runtime does: the specs that som writes, and others'."""

import json
import pathlib

import pytest

from som_device_plugin import cdi, seams
from som_device_plugin.local.stand_in import runtime

LEASE = seams.LeaseId("0123456789abcdef")


def test_a_program_gets_what_the_agent_wrote(tmp_path: pathlib.Path) -> None:
    mount = seams.Mount("/leases/1/som", "/dev/som", ("bind", "noexec"))
    cdi.Specs(tmp_path).write(
        LEASE, env={"SOM_UNIT": "2Mi", "X": "a=b"}, edits=seams.ContainerEdits((mount,))
    )
    others = {"cdiVersion": "0.3.0", "kind": "x.io/gpu"}
    devices = [{"name": "a", "containerEdits": {"env": ["GPU=a"]}}]
    (tmp_path / "others.json").write_text(json.dumps({**others, "devices": devices}))

    assert runtime.container_edits(cdi.device_name(LEASE), directory=tmp_path) == {
        "env": ["SOM_UNIT=2Mi", "X=a=b"],
        "mounts": [
            {
                "hostPath": "/leases/1/som",
                "containerPath": "/dev/som",
                "options": ["bind", "noexec"],
            }
        ],
        "deviceNodes": [],
    }
    gpu = runtime.container_edits("x.io/gpu=a", directory=tmp_path)
    assert gpu == {"env": ["GPU=a"]}


def test_a_device_without_a_spec_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(runtime.Unresolvable, match=r"unresolvable CDI devices som.io/lease=01234"):
        runtime.container_edits(cdi.device_name(LEASE), directory=tmp_path)
