"""The specs that container runtimes read: valid, whole, and nobody else's."""

import json
import pathlib
import stat

import pytest

from som_device_plugin import cdi, seams

LEASE = seams.LeaseId("0123456789abcdef")
EDITS = seams.ContainerEdits(
    (seams.Mount("/var/lib/som/leases/0123456789abcdef/som", "/dev/som", ("bind", "rw")),),
    (seams.DeviceNode("/dev/som-lease/7", "/dev/som", 240, 7),),
)


def written(directory: pathlib.Path) -> cdi.Specs:
    specs = cdi.Specs(directory)
    specs.write(LEASE, env={"SOM_BYTES": "2097152"}, edits=EDITS)
    return specs


def test_the_spec_of_a_lease_names_its_environment_mounts_and_nodes(tmp_path: pathlib.Path) -> None:
    written(tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.name == "som.io-lease-0123456789abcdef.json"
    assert json.loads(path.read_text()) == {
        "cdiVersion": "0.5.0",
        "kind": "som.io/lease",
        "devices": [
            {
                "name": "0123456789abcdef",
                "containerEdits": {
                    "env": ["SOM_BYTES=2097152"],
                    "mounts": [
                        {
                            "hostPath": "/var/lib/som/leases/0123456789abcdef/som",
                            "containerPath": "/dev/som",
                            "options": ["bind", "rw"],
                        }
                    ],
                    "deviceNodes": [
                        {
                            "path": "/dev/som",
                            "hostPath": "/dev/som-lease/7",
                            "type": "c",
                            "major": 240,
                            "minor": 7,
                            "fileMode": 0o666,
                            "permissions": "rw",
                        }
                    ],
                },
            }
        ],
    }
    assert cdi.device_name(LEASE) == "som.io/lease=0123456789abcdef"


def test_only_root_reads_a_spec_whatever_the_umask(tmp_path: pathlib.Path) -> None:
    written(tmp_path)
    (path,) = tmp_path.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_leases_are_those_with_a_spec_and_other_files_are_left_alone(
    tmp_path: pathlib.Path,
) -> None:
    others = ["nvidia.yaml", "som.io-lease-mine.json", "som.io-lease-0123456789abcdef.json.bak"]
    for name in others:
        (tmp_path / name).touch()
    specs = written(tmp_path)
    assert specs.leases() == {LEASE}
    specs.remove(LEASE)
    specs.remove(LEASE)
    assert specs.leases() == frozenset()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)


def test_what_a_dead_agent_left_half_written_is_no_spec_and_goes(tmp_path: pathlib.Path) -> None:
    half = tmp_path / ".som.io-lease"
    half.write_text("{")
    cdi.Specs(tmp_path)
    assert not half.exists()


def test_a_directory_that_was_deleted_is_told_with_the_cure(tmp_path: pathlib.Path) -> None:
    specs = cdi.Specs(tmp_path / "cdi")
    (tmp_path / "cdi").rmdir()
    with pytest.raises(cdi.CdiError, match=r"cdi: No such file or directory; .* the agent's pod"):
        specs.write(LEASE, env={}, edits=EDITS)
