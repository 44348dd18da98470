"""What of kubelet's set-up forbids or endangers a reservation."""

import errno
import json
import os
import pathlib
import shutil

import pytest

from som_api import SomError
from som_device_plugin.kubelet import setup
from som_device_plugin.linux import cgroups

UID = "0e6c1cd3-4c8f-4b0b-8b0f-2f6f0c1f9c51"
STATIC_POD = "d41d8cd98f00b204e9800998ecf8427e"
MIB2 = 2 << 20
GIB = 1 << 30
NO_LIMIT = {1: "9223372036852678656", 2: "max"}
QOS_LIMIT = str(1 << 62)
FILE = {1: "rsvd.limit_in_bytes", 2: "rsvd.max"}


def write_policy(folder: pathlib.Path, policy: str) -> None:
    state = {"policyName": policy, "machineState": {}, "checksum": 1}
    (folder / setup.STATE_FILE).write_text(json.dumps(state))


class Groups:
    """Cgroups with the controller in one of the two hierarchies."""

    def __init__(self, root: pathlib.Path, version: int) -> None:
        self.root, self.version = root, version

    def put(self, path: str, *, limit: str | None, size: str = "2MB") -> None:
        group = self.root / path
        group.mkdir(parents=True, exist_ok=True)
        if limit is not None:
            (group / f"hugetlb.{size}.{FILE[self.version]}").write_text(limit + "\n")

    def unlimited(self, *page_sizes: int) -> tuple[str, ...]:
        hierarchy = cgroups.Hierarchy(root=self.root, version=self.version, others=())
        return setup.unlimited_pods(hierarchy, page_sizes=page_sizes or (MIB2,))


@pytest.fixture(params=[1, 2], ids=["v1", "v2"])
def groups(tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> Groups:
    return Groups(tmp_path, request.param)


PODS = pytest.mark.parametrize(
    ("path", "uid"),
    [
        (f"kubepods/burstable/pod{UID}", UID),
        (f"kubepods/pod{UID}", UID),
        (f"som-test/kubepods/besteffort/pod{UID}", UID),
        (f"kubepods/burstable/pod{STATIC_POD}", STATIC_POD),
        (
            f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID.replace('-', '_')}"
            ".slice",
            UID,
        ),
        (f"kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice", UID),
        (
            "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/"
            f"kubelet-kubepods-besteffort-pod{UID.replace('-', '_')}.slice",
            UID,
        ),
    ],
)


@PODS
def test_a_pod_without_a_limit_is_found_under_every_name(
    groups: Groups, path: str, uid: str
) -> None:
    groups.put(path, limit=NO_LIMIT[groups.version])
    groups.put(f"{path}/cri-containerd-{'a' * 64}.scope", limit=NO_LIMIT[groups.version])
    assert groups.unlimited() == (uid,)


@PODS
def test_the_limit_of_an_ordinary_pod_is_no_trouble(groups: Groups, path: str, uid: str) -> None:
    groups.put(path, limit="0")
    assert groups.unlimited() == ()


def test_a_pod_that_ends_while_its_limit_is_read_is_no_trouble(
    groups: Groups, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups.put(f"kubepods/pod{UID}", limit="0")

    def read_text(path: pathlib.Path, **_: object) -> str:
        """What the kernel answers for an open file of a group that was removed."""
        shutil.rmtree(path.parent)
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), str(path))

    monkeypatch.setattr(pathlib.Path, "read_text", read_text)
    assert groups.unlimited() == ()


def test_kubelets_limit_for_a_qos_class_is_none(groups: Groups) -> None:
    groups.put("kubepods/burstable", limit=QOS_LIMIT)
    groups.put(f"kubepods/burstable/pod{UID}", limit=QOS_LIMIT)
    assert groups.unlimited() == (UID,)


def test_a_limit_above_the_pod_counts(groups: Groups) -> None:
    groups.put("kubepods", limit="0")
    groups.put(f"kubepods/burstable/pod{UID}", limit=NO_LIMIT[groups.version])
    assert groups.unlimited() == ()


def test_a_group_without_the_controller_has_no_limit(groups: Groups) -> None:
    groups.put(f"kubepods/pod{UID}", limit=None)
    assert groups.unlimited() == (UID,)


def test_one_size_without_a_limit_is_enough(groups: Groups) -> None:
    groups.put(f"kubepods/pod{UID}", limit="0")
    groups.put(f"kubepods/pod{UID}", limit=NO_LIMIT[groups.version], size="1GB")
    assert groups.unlimited(MIB2) == ()
    assert groups.unlimited(MIB2, GIB) == (UID,)


def test_a_node_without_pods_and_groups_of_others_are_no_trouble(groups: Groups) -> None:
    assert groups.unlimited() == ()
    for path in (f"pod{UID}", "system.slice/kubelet.service", "som/pool-a/hold", "kubepods/other"):
        groups.put(path, limit=NO_LIMIT[groups.version])
    assert groups.unlimited() == ()


@pytest.fixture
def directories(tmp_path: pathlib.Path) -> setup.Directories:
    """Those of a kubelet with another root directory, which runs."""
    found = setup.Directories(plugins=tmp_path / "kubelet/device-plugins", root=tmp_path / "root")
    for path in (found.registration_socket, found.pod_resources_socket):
        path.parent.mkdir(parents=True)
        path.touch()
    write_policy(found.root, "None")
    return found


def test_a_kubelet_with_another_root_directory_that_the_agent_was_told_blocks_nothing(
    directories: setup.Directories,
) -> None:
    assert setup.blocked(directories) is None


@pytest.mark.parametrize("absent", ["memory_manager_state", "pod_resources_socket"])
def test_a_kubelet_whose_files_are_somewhere_else_blocks_with_the_cure(
    directories: setup.Directories, absent: str
) -> None:
    path: pathlib.Path = getattr(directories, absent)
    path.unlink()
    found = setup.blocked(directories)
    assert found is not None
    assert found.reason == "KubeletNotFound"
    assert found.message.startswith(f"{path}: not there")
    assert "--kubelet-root-dir" in found.message
    assert not setup.Setup(blocked=found).is_kubelet_found


def test_a_policy_that_was_never_seen_is_not_none(tmp_path: pathlib.Path) -> None:
    nothing = setup.Directories(plugins=tmp_path, root=tmp_path)
    found = setup.blocked(nothing)
    assert found is not None and found.reason == "KubeletNotFound"


def test_a_kubelet_that_starts_and_has_no_socket_yet_blocks_nothing(
    directories: setup.Directories,
) -> None:
    directories.registration_socket.unlink()
    directories.pod_resources_socket.unlink()
    assert setup.blocked(directories) is None


@pytest.mark.parametrize("policy", ["None", "BestEffort", "Static"])
def test_only_the_policy_static_blocks(directories: setup.Directories, policy: str) -> None:
    write_policy(directories.root, policy)
    assert setup.blocked(directories) == (setup.STATIC if policy == "Static" else None)
    assert setup.Setup(blocked=setup.blocked(directories)).is_kubelet_found


@pytest.mark.parametrize("text", ["", "[]", "{}", "\xff"])
def test_a_policy_that_cannot_be_read_is_not_guessed(tmp_path: pathlib.Path, text: str) -> None:
    (tmp_path / setup.STATE_FILE).write_text(text)
    with pytest.raises(SomError, match="reserves none until it can read the file"):
        setup.blocked(setup.Directories(plugins=tmp_path, root=tmp_path))


def test_a_users_deep_tree_of_groups_neither_ends_nor_blinds_the_look_at_pods(
    groups: Groups,
) -> None:
    groups.put(f"kubelet.slice/kubepods/pod{UID}", limit=None)
    where = pathlib.Path.cwd()
    os.chdir(groups.root)
    try:
        for _ in range(1100):
            pathlib.Path("d").mkdir()
            os.chdir("d")
        assert groups.unlimited() == (UID,)
        # pytest, too, would end at this depth.
        for _ in range(1100):
            os.chdir("..")
            pathlib.Path("d").rmdir()
    finally:
        os.chdir(where)


def test_the_pods_are_seen_however_many_groups_a_user_makes(
    groups: Groups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "_MOST_GROUPS", 100)
    for number in range(200):
        groups.put(f"a.slice/user@1000.service/{number}", limit=None)
    groups.put(f"z.slice/kubepods/burstable/pod{UID}", limit=None)
    assert groups.unlimited() == (UID,)


def test_a_group_whose_name_is_no_text_is_passed_over(groups: Groups) -> None:
    groups.put(f"kubepods/pod{UID}", limit=None)
    for above in (groups.root, groups.root / "kubepods"):
        (above / os.fsdecode(b"\xff\xfe")).mkdir()
    assert groups.unlimited() == (UID,)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_groups_that_a_user_names_like_kubelets_are_not_kubelets(groups: Groups) -> None:
    groups.put(f"user.slice/kubepods/pod{UID}", limit=None)
    assert groups.unlimited() == (UID,)
    os.chown(groups.root / "user.slice/kubepods", 1000, 1000)
    assert groups.unlimited() == ()
