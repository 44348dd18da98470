"""The way in: by token and cookie, or behind a proxy; what is refused, and how it is said."""

import base64
import contextlib
import json
import time
from collections.abc import Iterator
from typing import Protocol

import pytest
from playwright import sync_api
from playwright.sync_api import expect

from fakes import reviewer as reviewers
from web.serving import Served
from web.visiting import COOKIE, Visitor


def _expired() -> str:
    """A token that ended an hour ago, as a service account's is made."""

    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'RS256'})}.{part({'exp': int(time.time()) - 3700})}.c2lnbmF0dXJl"


class Client(Protocol):
    """Opens something that sends requests with these headers, and follows nothing."""

    def __call__(self, **headers: str) -> sync_api.APIRequestContext: ...


@pytest.fixture
def client(served: Served, playwright: sync_api.Playwright) -> Iterator[Client]:
    with contextlib.ExitStack() as stack:

        def client(**headers: str) -> sync_api.APIRequestContext:
            requests = playwright.request.new_context(
                base_url=served.origin,
                ignore_https_errors=True,
                max_redirects=0,
                extra_http_headers={k.replace("_", "-"): v for k, v in headers.items()},
            )
            stack.callback(requests.dispose)
            return requests

        yield client


def test_login_sets_a_cookie_that_no_script_reads_and_leads_back(
    served: Served, visit: Visitor
) -> None:
    seen = visit(served, token="")
    seen.go("/nodes?order=name")
    expect(seen.page.get_by_role("heading", name="Sign in to som")).to_be_visible()
    expect(seen.page.get_by_label("Token")).to_be_focused()
    # As pasted from a terminal that has broken the line.
    seen.page.get_by_label("Token").fill(f" {reviewers.ADMIN[:5]} {reviewers.ADMIN[5:]} ")
    seen.page.keyboard.press("Enter")
    seen.page.wait_for_url("**/nodes?order=name")
    (cookie,) = seen.page.context.cookies()
    assert (cookie["name"], cookie["httpOnly"], cookie["secure"]) == (COOKIE, True, True)
    assert (cookie["sameSite"], cookie["path"], cookie["expires"]) == ("Strict", "/", -1)
    assert seen.page.evaluate("document.cookie") == ""
    seen.page.get_by_role("button", name="Sign out").click()
    seen.page.wait_for_url("**/login")
    assert seen.page.context.cookies() == []


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("wrong", "does not know this token"),
        (_expired(), "This token expired on"),
        ("x" * 4100, "no browser keeps"),
        ("<script>alert(1)</script>", "this is no token"),
    ],
)
def test_token_that_is_refused_is_told_why(
    token: str, said: str, served: Served, visit: Visitor
) -> None:
    seen = visit(served, token="")
    seen.go("/login")
    seen.page.get_by_label("Token").fill(token)
    seen.page.get_by_role("button", name="Sign in").click()
    expect(seen.page.get_by_role("alert")).to_contain_text(said)
    assert seen.page.context.cookies() == []
    assert token not in seen.page.content()


def test_proxy_passes_a_token_and_names_are_not_trusted(client: Client) -> None:
    proxied = client(Authorization=f"Bearer {reviewers.VIEWER}")
    answer = proxied.get("/")
    assert answer.status == 200
    assert "viewer" in answer.text()
    assert "Sign out" not in answer.text()
    assert "set-cookie" not in answer.headers
    names = dict.fromkeys(("X_Forwarded_User", "X_Remote_User", "Impersonate_User"), "admin")
    stranger = client(**names)
    answer = stranger.get("/")
    assert (answer.status, answer.headers["location"]) == (303, "/login")
    broken = client(Authorization="Bearer wrong")
    assert broken.get("/").status == 401


def test_cookie_opens_the_page_alone(client: Client) -> None:
    sender = client(Cookie=f"{COOKIE}={reviewers.ADMIN}")
    assert sender.get("/").status == 200
    assert sender.get("/api/v1/nodes").status == 401


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Sec_Fetch_Site": "same-origin"}, 303),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Origin": "https://elsewhere.example"}, 403),
        ({}, 403),
    ],
)
def test_form_of_another_site_is_refused(
    headers: dict[str, str], code: int, client: Client
) -> None:
    sender = client(**headers)
    assert sender.post("/login", form={"token": reviewers.ADMIN}).status == code
    assert sender.post("/logout").status == code


@pytest.mark.parametrize("back", ["//elsewhere.example", "https://elsewhere.example", "/\\x", "x"])
def test_login_leads_to_no_other_site(back: str, client: Client) -> None:
    sender = client(Sec_Fetch_Site="same-origin")
    answer = sender.post("/login", form={"token": reviewers.ADMIN, "back": back})
    assert answer.headers["location"] == "/"


def test_every_answer_has_the_policy(client: Client) -> None:
    sender = client(Authorization=f"Bearer {reviewers.ADMIN}")
    for path in ("/", "/nodes", "/leases", "/login", "/nothing", "/static/page.js"):
        headers = sender.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert path.startswith("/static") or headers["cache-control"] == "no-store"


def test_viewer_sees_what_he_may_and_what_is_missing(served: Served, visit: Visitor) -> None:
    seen = visit(served, token=reviewers.VIEWER)
    seen.go("/nodes/node-0000")
    assert "shop" in seen.page.inner_text("#leases tbody")
    assert "kube-system" not in seen.page.inner_text("#leases")
    assert "whose pods you may list" in seen.page.inner_text("#leases .notice")
    seen.go("/leases")
    assert "name one of yours" in seen.page.inner_text("main .notice")
    seen.page.get_by_label("Namespace").fill("shop")
    seen.page.get_by_role("button", name="Show").click()
    expect(seen.page.locator("section[aria-label=Leases] tbody tr")).to_have_count(3)


def test_nobody_is_told_what_he_may_not(served: Served, visit: Visitor) -> None:
    seen = visit(served, token=reviewers.NOBODY)
    seen.go("/")
    notes = seen.page.locator(".notice").all_inner_texts()
    assert [note.partition(",")[0] for note in notes] == [
        "You may not list sompools.som.io",
        "You may not list somnodes.som.io",
    ]
    assert "databases" not in seen.page.content()
    assert seen.page.locator("main section").count() == 0
    for path in ("/nodes/node-0000", "/pools/databases", "/nodes/at/0", "/nodes/none"):
        assert seen.go(path).status == 403


@pytest.mark.parametrize("kind", ["slow", "dead"])
def test_agent_that_does_not_answer_is_named(kind: str, served: Served, visit: Visitor) -> None:
    getattr(served.fleet, kind).add("node-0001")
    seen = visit(served)
    seen.go("/nodes/node-0001")
    assert "node-0001:" in seen.page.inner_text("#leases .notice")
    seen.go("/leases")
    assert "This agent did not answer" in seen.page.inner_text("main .notice")
    assert seen.page.locator("section[aria-label=Leases] tbody tr").count() == 4
