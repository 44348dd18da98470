"""The page's decisions: what is wrong where, what a list shows, what a link may say."""

import base64
import datetime
import json
import pathlib
import tomllib
import urllib.parse
from fnmatch import fnmatch

import pytest

from fakes.fleet import GIB, FakeFleet
from som_api.web import refusals
from som_api.web.page import field, lists, screens, session, summary, texts

NOW = datetime.datetime(2026, 11, 28, 16, 0, tzinfo=datetime.UTC)
ROOT = pathlib.Path(__file__).parents[3]


def test_wheel_has_templates_and_static_files() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    globs = project["tool"]["setuptools"]["package-data"]["som_api.web.page"]
    folder = ROOT / "api/som_api/web/page"
    files = [p for part in ("templates", "static") for p in (folder / part).iterdir()]
    assert len(files) > 10
    for path in files:
        assert any(fnmatch(str(path.relative_to(folder)), glob) for glob in globs)


async def test_troubles_are_grouped_the_worst_first() -> None:
    rows = await summary.Summaries(FakeFleet(500)).rows()
    groups = summary.group(rows)
    assert [(group.trouble.reason, len(group.names)) for group in groups] == [
        ("KubeletNotReady", 5),
        ("PartlyReserved", 50),
        ("PartlyReserved", 17),
        ("LeaseHeld", 10),
    ]
    shown = screens.fleet_troubles((), rows, NOW)
    assert shown[1].title == "Partly reserved: pool databases on 50 nodes"
    assert (len(shown[1].where), shown[1].more) == (3, 47)


def test_troubles_that_do_not_fit_are_counted() -> None:
    troubles = tuple(summary.Trouble(summary.Tone.WARN, "x", f"R{n}", "") for n in range(14))
    shown = screens.fleet_troubles((), [summary.Row("a", 0, 0, 0, 0, (), troubles)], NOW)
    assert (len(shown), shown[-1].title) == (13, "2 more kinds of trouble, none worse than these")


async def test_node_is_looked_at_again_only_when_it_has_changed() -> None:
    fleet = FakeFleet(3)
    summaries = summary.Summaries(fleet)
    before = await summaries.rows()
    assert await summaries.rows() is before
    fleet.allocate("node-0001", 60 * GIB)
    after = await summaries.rows()
    assert [a is b for a, b in zip(before, after, strict=True)] == [True, True, False]
    assert screens.sums_of_nodes(after).allocated == (3 + 3 + 60 + 3) * GIB


def test_missing_memory_of_one_node_is_not_hidden_by_another_that_has_more() -> None:
    rows = [
        summary.Row("a", 64, 32, 8, 24, (), ()),
        summary.Row("b", 64, 96, 0, 96, (), ()),
    ]
    sums = screens.sums_of_nodes(rows)
    assert (sums.capacity, sums.missing) == (128, 32)
    assert (sums.share.reserved, sums.share.used) == (800, 50)


def test_field_is_one_outline_per_row_and_tone() -> None:
    cells = [field.Cell(0.5), field.Cell(0.0), field.Cell(1.0, "bad-")]
    drawn = field.draw(cells)
    assert (drawn.columns, drawn.rows, drawn.pitch) == (3, 1, 44)
    assert dict(drawn.paths) == {
        "is-free": "M0 44v-44h88v44h44V44z",
        "is-used": "M0 44v-22h44v22h88V44z",
        "is-bad-free": "M0 44v0h88v-44h44V44z",
        "is-bad-used": "M0 44v0h88v-44h44V44z",
    }


def test_field_of_5000_nodes_is_small() -> None:
    drawn = field.draw([field.Cell(number % 7 / 6) for number in range(5000)])
    assert drawn.width <= 1128
    assert sum(len(path) for _, path in drawn.paths) < 60_000


@pytest.mark.parametrize("nodes", [0, 1, 2])
def test_field_of_few_nodes(nodes: int) -> None:
    assert field.draw([field.Cell(0.0)] * nodes).cells == nodes


def test_list_ends_at_its_last_page() -> None:
    query = lists.query("/nodes", {"name": " a&b ", "page": "9"}, texts=("name",))
    page = query.page(range(120), "nodes")
    assert (list(page.items), page.after) == (list(range(100, 120)), "")
    assert urllib.parse.parse_qs(page.before.partition("?")[2]) == {"name": ["a&b"], "page": ["2"]}


@pytest.mark.parametrize(
    "parameters",
    [
        {"page": "0"},
        {"page": "-1"},
        {"page": "1" * 9},
        {"page": "²"},
        {"name": "x" * 254},
        {"order": "x"},
    ],
)
def test_list_refuses_what_it_cannot_show(parameters: dict[str, str]) -> None:
    with pytest.raises(refusals.Refusal) as refused:
        lists.query("/nodes", parameters, texts=("name",), choices={"order": screens.ORDERS})
    assert refused.value.code == 400


@pytest.mark.parametrize(
    ("path", "leads_to"),
    [
        ("/nodes?name=a", "/nodes?name=a"),
        ("//elsewhere", "/"),
        ("/\\elsewhere", "/"),
        ("https://elsewhere", "/"),
        ("/a\r\nSet-Cookie: x", "/"),
        ("/" + "a" * 2000, "/"),
        ("", "/"),
    ],
)
def test_login_leads_only_to_this_site(path: str, leads_to: str) -> None:
    assert session.local(path) == leads_to


def _token(claims: object) -> str:
    return f"e30.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.x"


@pytest.mark.parametrize(
    ("token", "is_expired"),
    [
        (_token({"exp": NOW.timestamp() - 1}), True),
        (_token({"exp": NOW.timestamp() + 1}), False),
        (_token({"exp": 1e300}), False),
        (_token({"exp": "soon"}), False),
        (_token([]), False),
        (_token({}), False),
        ("a.b.c", False),
        ("ä.ö.ü", False),
        ("opaque", False),
    ],
)
def test_expired_token_is_known_by_what_it_says(token: str, is_expired: bool) -> None:
    assert (session.expired(token, now=NOW) is not None) is is_expired


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("PartlyReserved", "partly reserved"),
        ("RuntimeWithoutCDI", "runtime without CDI"),
        ("Ready", "ready"),
        ("", ""),
    ],
)
def test_reasons_are_said_in_words(reason: str, words: str) -> None:
    assert texts.words(reason) == words


@pytest.mark.parametrize(
    ("some_bytes", "said"),
    [(0, "0"), (2 * 2**20, "2 Mi"), (37 * GIB + GIB // 2, "37.5 Gi"), (312 * 2**40, "312 Ti")],
)
def test_amounts_are_said_in_three_digits(some_bytes: int, said: str) -> None:
    assert texts.amount(some_bytes) == said.replace(" ", "\u00a0")


@pytest.mark.parametrize("since", [None, "", "yesterday", "2026-11-28T16:00:00", "x" * 40])
def test_time_that_is_none_has_no_age(since: str | None) -> None:
    assert texts.age(since, NOW) == ""
