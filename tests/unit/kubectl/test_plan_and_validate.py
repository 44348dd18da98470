"""`plan` and `validate`: what would change, and what is wrong with a file."""

import json
import pathlib
from collections.abc import Callable

import pytest

from unit.kubectl.conftest import Run
from unit.kubectl.fleets import Fleet, Json, manifest, pool

BIG = {"size": "big"}
File = Callable[..., str]


def changes(printed: str) -> list[tuple[str, str, str]]:
    """(node, pool, what) of a plan in JSON."""
    return [(c["node"], c["pool"], c["what"]) for c in json.loads(printed)["changes"]]


@pytest.fixture
def databases(fleet: Fleet) -> Json:
    """A pool of two big nodes; a third node is small."""
    item = fleet.pool(pool("databases", labels=BIG))
    for name in ("n1", "n2"):
        fleet.node(name, item, labels=BIG, allocated="48Gi")
    fleet.node("n3")
    return item


def test_the_same_again_changes_nothing(databases: Json, som: Run, file: File) -> None:
    status, printed, _ = som("plan", "-f", file(manifest(databases)))
    assert (status, printed) == (0, "no change on any of 3 nodes\n")


def test_a_new_pool_comes_to_the_nodes_of_its_selector(
    fleet: Fleet, databases: Json, som: Run, file: File
) -> None:
    new = manifest(pool("caches", "8Gi", labels={"size": "small"}))
    fleet.node("n4", labels={"size": "small"})
    status, printed, _ = som("plan", "-f", file(new))
    assert status == 1
    assert printed.splitlines() == [
        "POOL     WHAT   NOW   THEN   COUNT   NODES   NOTE",
        "caches   new    -     8Gi    1       n4      -",
        "1 of 4 nodes change; 8Gi more is ordered in all",
    ]


def test_a_pool_without_selector_comes_to_nodes_with_an_agent(
    fleet: Fleet, som: Run, file: File
) -> None:
    fleet.node("n1")
    fleet.node("n2", agent=False)
    printed = som("plan", "-f", file(manifest(pool("a"))), "-o", "json")[1]
    assert changes(printed) == [("n1", "a", "new")]


def test_growing_and_shrinking_are_told_apart(databases: Json, som: Run, file: File) -> None:
    grown = som("plan", "-f", file(manifest(databases, capacity="96Gi")))[1]
    assert "databases   grows   64Gi   96Gi   2       n1, n2" in grown
    assert "64Gi more is ordered in all" in grown
    shrunk = som("plan", "-f", file(manifest(databases, capacity="32Gi")))[1]
    assert "containers hold 48Gi: as they end" in shrunk
    assert "64Gi less is ordered in all" in shrunk


def test_a_deleted_pool_leaves(databases: Json, som: Run) -> None:
    status, printed, _ = som("plan", "--delete", "databases", "-o", "json")
    assert status == 1
    assert changes(printed) == [("n1", "databases", "leaves"), ("n2", "databases", "leaves")]
    assert json.loads(printed)["somNodeSpecs"] == {"n1": {"pools": []}, "n2": {"pools": []}}


def test_a_paused_pool_changes_nothing(databases: Json, som: Run, file: File) -> None:
    paused = manifest(databases, capacity="96Gi", paused=True)
    assert som("plan", "-f", file(paused))[0] == 0


def test_a_pool_in_conflict_says_who_has_the_unit(databases: Json, som: Run, file: File) -> None:
    status, printed, _ = som("plan", "-f", file(manifest(pool("zoo", labels=BIG))))
    assert status == 0
    assert "zoo    conflicts" in printed
    assert "pool databases has this unit here" in printed


def test_a_successor_waits_for_the_memory_of_the_one_before(
    databases: Json, som: Run, file: File
) -> None:
    words = ("plan", "--delete=databases", "-f", file(manifest(pool("zoo", labels=BIG))))
    printed = som(*words)[1]
    assert "waits for pool databases to give its memory back" in printed


def test_a_changed_selector_moves_the_pool(databases: Json, som: Run, file: File) -> None:
    moved = manifest(databases, nodeSelector={"matchLabels": {"size": "small"}})
    printed = som("plan", "-f", file(moved), "-ojson")[1]
    assert changes(printed) == [("n1", "databases", "leaves"), ("n2", "databases", "leaves")]


def test_a_somnode_that_cannot_be_read_is_named(
    fleet: Fleet, databases: Json, som: Run, file: File
) -> None:
    path = "/apis/som.io/v1alpha1/somnodes/n1"
    fleet.kubectl.objects[path]["spec"]["pools"][0]["unit"] = "7Mi"
    printed = som("plan", "-f", file(manifest(databases, capacity="96Gi")))[1]
    assert "its SomNode cannot be read" in printed


def test_the_api_server_is_asked_what_apply_would_make_of_it(
    fleet: Fleet, databases: Json, som: Run, file: File
) -> None:
    som("plan", "-f", file(manifest(databases)))
    words = ("apply", "--dry-run=server", "--output=json", "--filename=-")
    assert words in fleet.kubectl.calls


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "nothing to plan: name a file with -f, or a pool with --delete"),
        (("--delete", "nobody"), "delete nobody: there is no such SomPool"),
        (("-f", "/nowhere.yaml"), "/nowhere.yaml: cannot be read: No such file or directory"),
    ],
)
def test_what_cannot_be_planned_is_an_error(
    databases: Json, som: Run, words: tuple[str, ...], says: str
) -> None:
    assert som("plan", *words) == (2, "", f"error: {says}\n")


def test_validate_says_every_fault_with_field_and_cure(som: Run, file: File) -> None:
    wrong = manifest(pool("a"), unit="3Mi", capacity="7", sorce={})
    named_twice = manifest(pool("b"))
    status, printed, _ = som("validate", "-f", file(wrong, named_twice, named_twice))
    assert status == 1
    assert printed.count("pools.yaml[1]: ") >= 2
    assert "pools.yaml[1]: spec.unit: '3Mi' is not possible here; use '2Mi' or '1Gi'" in printed
    assert "pools.yaml[1]: spec.sorce: unknown field; remove it or check its spelling" in printed
    assert "pools.yaml[3]: metadata.name: 'b' is in" in printed


def test_validate_needs_no_cluster(fleet: Fleet, som: Run, file: File) -> None:
    other = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}
    status, printed, beside = som("validate", "-f", file(manifest(pool("a")), other))
    assert (status, printed) == (0, "1 SomPool: nothing is wrong\n")
    assert beside.endswith("pools.yaml[2]: ConfigMap is not som's; not looked at\n")
    assert fleet.kubectl.calls == []


def test_validate_reads_a_folder_and_lists(som: Run, tmp_path: pathlib.Path) -> None:
    items = [manifest(pool("a")), manifest(pool("b"))]
    (tmp_path / "one.json").write_text(json.dumps({"kind": "List", "items": items}))
    (tmp_path / "two.yml").write_text(json.dumps(manifest(pool("c"))))
    (tmp_path / "readme.md").write_text("not YAML: at: all")
    assert som("validate", "-f", str(tmp_path))[1] == "3 SomPools: nothing is wrong\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a: [", "line 1: expected the node content"),
        (b"\xff\xfe\x00", "is not text"),
        (b"# nothing\n", "no SomPool there"),
        (b"[" * 1000, "is nested too deep"),
        (b"a" * (5 << 20), "is larger than 4 MiB"),
    ],
)
def test_a_file_that_is_no_yaml_is_named(
    som: Run, tmp_path: pathlib.Path, content: bytes, says: str
) -> None:
    path = tmp_path / "pools.yaml"
    path.write_bytes(content)
    status, _, beside = som("validate", "-f", str(path))
    assert status == 2
    assert beside.startswith(f"error: {path}: ")
    assert says in beside
