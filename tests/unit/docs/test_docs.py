"""The docs are true: their links lead somewhere, and what they name exists."""

import ast
import pathlib
import re
import typing
from typing import Any

import pytest
import yaml

from som_api import v1alpha1
from som_api.plan import books, runtimes
from som_operator import agents as lost_agents
from som_operator.loading import decide

ROOT = pathlib.Path(__file__).parents[3]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])
BY_NAME = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
TROUBLESHOOT = (DOCS / "how-to/troubleshoot.md").read_text()
EXAMPLES = sorted((ROOT / "examples").glob("sompool*.yaml"))
SEEN = sorted((ROOT / "tests/cluster/golden/describe").glob("*.txt"))
"""What kubectl describe said on a real cluster; the cluster tests compare it."""


def _code(*folders: str) -> str:
    files = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return "\n".join(path.read_text() for path in files)


def _manifests(text: str) -> list[dict[str, Any]]:
    """The objects in a page's code blocks, also those that a shell's here-document holds."""
    found = []
    for block in re.findall(r"```(?:yaml|sh)\n(.*?)```", text, re.S):
        bodies = re.findall(r"<<EOF\n(.*?)\nEOF", block, re.S) or [block]
        for body in bodies:
            if re.search(r"^kind:", body, re.M):
                found += list(yaml.load_all(body, yaml.CSafeLoader))
    return found


def _section(title: str) -> str:
    return TROUBLESHOOT.partition(f"## {title}\n")[2].partition("\n## ")[0]


def _first_column(table: str) -> set[str]:
    cells = re.findall(r"^\| (`.*?) \|", table, re.M)
    return {word for cell in cells for word in re.findall(r"`(\w+)`", cell)}


@BY_NAME
def test_links_lead_somewhere(page: pathlib.Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text()):
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}


@BY_NAME
def test_sompools_of_the_docs_are_valid(page: pathlib.Path) -> None:
    for manifest in _manifests(page.read_text()):
        if manifest["kind"] == "SomPool":
            v1alpha1.parse_sompool(manifest)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_sompools_of_the_examples_are_valid(path: pathlib.Path) -> None:
    v1alpha1.parse_sompool(yaml.safe_load(path.read_text()))


def test_there_is_an_example_of_each_source_and_driver() -> None:
    specs = [v1alpha1.parse_sompool(yaml.safe_load(path.read_text())).spec for path in EXAMPLES]
    assert {(spec.source.kind, spec.driver_type) for spec in specs} == {
        ("HugeTLB", "HugeTLBFS"),
        *((kind, "Kernel") for kind in typing.get_args(v1alpha1.SourceKind)),
    }


def test_sompool_of_the_notes_is_valid() -> None:
    notes = (ROOT / "charts/som/templates/NOTES.txt").read_text()
    body = re.search(r"<<EOF\n(.*?)\n +EOF", notes, re.S)
    assert body is not None
    v1alpha1.parse_sompool(yaml.safe_load(body[1]))


@BY_NAME
def test_values_that_are_set_exist(page: pathlib.Path) -> None:
    values = (DOCS / "reference/values.md").read_text()
    for value in re.findall(r"--set ([\w.]+)=", page.read_text()):
        assert f"`{value}`" in values


def test_every_reason_of_a_pool_that_is_not_ready_is_explained() -> None:
    source = (ROOT / "api/som_api/plan/pool_status.py").read_text()
    verdicts = source.partition("def _ready(")[2].partition("\ndef ")[0]
    reasons = set(re.findall(r'return "(?:False|Unknown)", "(\w+)"', verdicts))
    table = source.partition("_NOT_READY")[2].partition("\n}\n")[0]
    reasons |= set(re.findall(r': "(\w+)"', table))
    assert _first_column(_section("A pool is not Ready")) == reasons


def test_every_event_of_an_agent_is_explained() -> None:
    reasons = set()
    texts = [path.read_text() for path in (ROOT / "device-plugin").rglob("*.py")]
    for text in texts:
        for node in ast.walk(ast.parse(text)) if "seams.Event(" in text else ():
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "seams.Event":
                reason = node.args[0] if node.args else node.keywords[0].value
                reasons |= {
                    str(part.value)
                    for part in ast.walk(reason)
                    if isinstance(part, ast.Constant) and str(part.value)[:1].isupper()
                }
    assert _first_column(_section("Events on Nodes")) == {r for r in reasons if r.isidentifier()}


def test_every_reason_of_the_driver_is_explained() -> None:
    text = _code("operator/som_operator/loading")
    reasons = set(re.findall(r'^_?[A-Z_]+: Final = "([A-Z]\w+)"', text, re.M))
    page = (DOCS / "how-to/kernel-driver.md").read_text()
    # These two are no reasons of the condition: it goes, or stays as it was.
    assert _first_column(page) == reasons - {decide.CONDITION, "Unloaded", "InUse"}


def test_every_condition_of_a_somnode_is_explained() -> None:
    source = (ROOT / "device-plugin/som_device_plugin/status.py").read_text()
    section = _section("A node is not Ready")
    agents = set(re.findall(r'\btype="(\w+)"', source))
    operators = {each.CONDITION for each in (books, decide, lost_agents, runtimes)}
    assert _first_column(section) == agents | operators
    troubles = source.partition("_TROUBLE: Final = {")[2].partition("}")[0]
    for reason in re.findall(r'"(\w+)"', troubles):
        assert f"`{reason}`" in section


def _message(seen: pathlib.Path) -> str:
    """What is to be looked up: without kubelet's words before it and the scheduler's after it."""
    (line,) = seen.read_text().splitlines()
    before = r"denied request: |desc = |with err: |scheduler: |kubelet: |[{]main[}]: |failed: "
    return re.split(before, line.partition(" preemption:")[0])[-1]


@pytest.mark.parametrize("seen", SEEN, ids=lambda seen: seen.stem)
def test_what_describe_says_of_a_failure_is_explained(seen: pathlib.Path) -> None:
    assert f"`{_message(seen)}`" in TROUBLESHOOT


@pytest.mark.parametrize(
    ("section", "source"),
    [
        ("The pod cannot be created", "charts/som/templates/admission"),
        ("The container is created, but does not start", "device-plugin"),
    ],
)
def test_messages_that_are_explained_exist(section: str, source: str) -> None:
    code = "\n".join(
        path.read_text() for path in (ROOT / source).rglob("*") if path.suffix in (".py", ".yaml")
    )
    # Messages are written in pieces, and hold values: each run of plain words must be there.
    joined = re.sub(r"""['"] ?\+?\s+f?['"]""", "", code)
    plain = re.sub(r"\{[^}]*\}", "*", joined)
    for message in re.findall(r"^\| (`[^|]*`) \|", _section(section), re.M):
        for piece in re.findall(r"`([^`]*)`", message):
            if piece == "exceeded quota" or piece in map(_message, SEEN):
                continue
            words = re.split(r"\.\.\.|\b[\d.]+Gi\b|\b[\w-]+-\d+\b|databases|som\.io/2Mi now", piece)
            for word in (word.strip(" ;():,") for word in words):
                assert word in plain or len(word) < 4, (word, piece)
