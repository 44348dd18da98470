"""Where the hugetlb controller is found, and the cure where it is not."""

import os
import pathlib

import pytest

from som_device_plugin import seams
from som_device_plugin.linux import cgroups, mountinfo


def mount(path: pathlib.Path, fstype: str, *options: str) -> mountinfo.Mount:
    return mountinfo.Mount(
        device=path.name,
        root="/",
        mountpoint=path,
        fstype=fstype,
        source="none",
        super_options=frozenset(options),
    )


@pytest.fixture
def unified(tmp_path: pathlib.Path) -> mountinfo.Mount:
    path = tmp_path / "unified"
    path.mkdir()
    (path / "cgroup.controllers").write_text("cpu hugetlb memory\n")
    return mount(path, "cgroup2", "rw")


def legacy(tmp_path: pathlib.Path, *controllers: str) -> mountinfo.Mount:
    path = tmp_path / "-".join(controllers)
    path.mkdir()
    (path / "release_agent").touch()
    return mount(path, "cgroup", "rw", *controllers)


def test_the_unified_hierarchy(unified: mountinfo.Mount) -> None:
    found = cgroups.find([unified])
    assert found == cgroups.Hierarchy(root=unified.mountpoint, version=2, others=())


def test_a_containers_own_part_of_the_hierarchy_is_passed_over(
    unified: mountinfo.Mount, tmp_path: pathlib.Path
) -> None:
    part = mount(tmp_path / "part", "cgroup2", "rw")
    part.mountpoint.mkdir()
    (part.mountpoint / "cgroup.type").write_text("domain\n")
    (part.mountpoint / "cgroup.controllers").write_text("hugetlb\n")

    assert cgroups.find([part, unified]).root == unified.mountpoint
    with pytest.raises(cgroups.CgroupError):
        cgroups.find([part])


def test_a_hierarchy_that_another_mount_covers_is_passed_over(
    unified: mountinfo.Mount, tmp_path: pathlib.Path
) -> None:
    covered = mount(tmp_path / "covered", "cgroup2", "rw")
    assert cgroups.find([covered, unified]).root == unified.mountpoint
    with pytest.raises(cgroups.CgroupError, match="no cgroup hierarchy"):
        cgroups.find([covered])


def test_version_1_with_the_hierarchies_that_a_worker_has_to_leave(
    unified: mountinfo.Mount, tmp_path: pathlib.Path
) -> None:
    (unified.mountpoint / "cgroup.controllers").write_text("\n")
    hugetlb = legacy(tmp_path, "hugetlb")
    cpu = legacy(tmp_path, "cpu", "cpuacct")
    mounts = [unified, legacy(tmp_path, "pids"), cpu, legacy(tmp_path, "memory"), hugetlb]

    found = cgroups.find(mounts)

    assert (found.root, found.version) == (hugetlb.mountpoint, 1)
    assert found.others == (
        unified.mountpoint,
        cpu.mountpoint,
        tmp_path / "memory",
    )


def test_no_controller_is_refused_with_the_cure(tmp_path: pathlib.Path) -> None:
    with pytest.raises(cgroups.CgroupError, match="mount -t cgroup -o hugetlb none"):
        cgroups.find([legacy(tmp_path, "memory")])


def test_each_state_directory_has_groups_of_its_own(unified: mountinfo.Mount) -> None:
    found = cgroups.find([unified])
    own = found.som(cgroups.DEFAULT_STATE_DIR)
    other = found.som(pathlib.Path("/tmp/state"))
    assert own == unified.mountpoint / "som"
    assert other.name.startswith("som-")


def test_numa_statistics_leave_out_empty_nodes(
    unified: mountinfo.Mount, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "hugetlb.2MB.numa_stat").write_text("total=6291456 N0=2097152 N1=0 N2=4194304\n")
    found = cgroups.find([unified])
    assert found.node_bytes(tmp_path, 2 * 2**20) == {0: 2097152, 2: 4194304}


@pytest.mark.parametrize(("page_bytes", "name"), [(2**21, "2MB"), (2**30, "1GB"), (2**16, "64KB")])
def test_page_sizes_have_the_kernels_names(page_bytes: int, name: str) -> None:
    assert cgroups.size_name(page_bytes) == name


def test_a_hierarchy_that_is_gone_says_nothing_about_who_holds_memory(
    tmp_path: pathlib.Path,
) -> None:
    (tmp_path / "cgroup.procs").touch()
    nobody = seams.Usage(current_bytes=0, reserved_bytes=0)
    found = cgroups.Hierarchy(root=tmp_path, version=2, others=())
    assert found.charge(tmp_path / "som" / "pool-a" / "0", 2 << 20) == nobody

    (tmp_path / "cgroup.procs").unlink()
    with pytest.raises(cgroups.CgroupError, match="is gone"):
        found.charge(tmp_path / "som" / "pool-a" / "0", 2 << 20)


def test_a_process_of_another_pid_namespace_is_waited_for_and_not_taken_for_the_agent(
    unified: mountinfo.Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    (unified.mountpoint / "cgroup.procs").write_text("0\n4711\n")
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda process, _signal: killed.append(process))
    monkeypatch.setattr(cgroups, "_END_TIMEOUT_S", 0.05)

    with pytest.raises(cgroups.CgroupError, match="did not end"):
        cgroups.find([unified]).end_processes(unified.mountpoint)
    assert set(killed) == {4711}


def test_pools_of_other_state_directories_are_seen_and_nothing_else(
    unified: mountinfo.Mount, tmp_path: pathlib.Path
) -> None:
    hierarchy = cgroups.find([unified])
    (unified.mountpoint / "cgroup.procs").touch()
    other, default = tmp_path / "other", cgroups.DEFAULT_STATE_DIR
    charges = [
        (hierarchy.pool(default, "a") / "hold", 0, 64),
        (hierarchy.pool(default, "a") / "0", 7, 0),
        (hierarchy.pool(other, "a") / "hold", 0, 16),
        (unified.mountpoint / "some-pods" / "pool-a" / "0", 9, 9),
    ]
    for group, current, reserved in charges:
        group.mkdir(parents=True)
        (group / "hugetlb.2MB.current").write_text(f"{current}\n")
        (group / "hugetlb.2MB.rsvd.current").write_text(f"{reserved}\n")

    assert hierarchy.neighbours_bytes(other, 2 * 2**20) == 71
    assert hierarchy.neighbours_bytes(default, 2 * 2**20) == 16
    assert hierarchy.neighbours_bytes(tmp_path / "third", 2 * 2**20) == 71 + 16
