"""Each view at three sizes of fleet: it shows what it should, on any screen, and to everybody."""

from collections.abc import Callable

import pytest
from axe_playwright_python import sync_playwright as axe
from playwright.sync_api import expect

from fakes.fleet import HOSTILE
from web.serving import Served
from web.visiting import Visit, Visitor

SIZES = (3, 500, 5000)
VIEWS = {
    "/": "Fleet",
    "/nodes": "Nodes",
    "/nodes/node-0001": "node-0001",
    "/pools/databases": "databases",
    "/leases": "Leases",
}
FleetOf = Callable[[int], Served]


def _fits(visit: Visit) -> bool:
    """Nothing is wider than the screen."""
    fits: bool = visit.page.evaluate(
        "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    )
    return fits


def _barriers(visit: Visit) -> list[str]:
    """What axe finds that shuts people out."""
    found = axe.Axe().run(visit.page).response["violations"]
    return [
        f"{each['id']}: {node['html'][:200]}"
        for each in found
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


@pytest.mark.parametrize("nodes", SIZES)
@pytest.mark.parametrize("path", VIEWS)
def test_view_is_there_fits_and_shuts_nobody_out(
    path: str, nodes: int, fleet_of: FleetOf, visit: Visitor
) -> None:
    seen = visit(fleet_of(nodes))
    assert seen.go(path).status == 200
    assert seen.page.text_content("h1") == VIEWS[path]
    assert _fits(seen)
    assert not _barriers(seen)


@pytest.mark.parametrize("path", VIEWS)
def test_view_on_a_phone_in_the_dark(path: str, fleet_of: FleetOf, visit: Visitor) -> None:
    seen = visit(fleet_of(500), width=360, dark=True)
    seen.go(path)
    assert _fits(seen)
    assert not _barriers(seen)
    ground = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(int(part) for part in ground[4:-1].split(",")) < 64


@pytest.mark.parametrize("nodes", SIZES)
def test_lists_come_in_pages(nodes: int, fleet_of: FleetOf, visit: Visitor) -> None:
    seen = visit(fleet_of(nodes))
    seen.go("/nodes?order=name")
    assert seen.page.locator("tbody tr").count() == min(50, nodes)
    if nodes > 50:
        seen.page.get_by_role("link", name="Next").click()
        expect(seen.page.locator("nav.pages")).to_contain_text("51 to 100")


def test_filter_on_the_server(fleet_of: FleetOf, visit: Visitor) -> None:
    seen = visit(fleet_of(5000))
    seen.go("/nodes")
    seen.page.get_by_label("Name contains").fill("node-012")
    seen.page.get_by_label("Order").select_option("name")
    seen.page.get_by_role("button", name="Show").click()
    names = seen.page.locator("tbody th")
    expect(names).to_have_text([f"node-012{digit}" for digit in range(10)])


def test_trouble_comes_first_and_leads_to_its_nodes(fleet_of: FleetOf, visit: Visitor) -> None:
    seen = visit(fleet_of(500))
    seen.go("/")
    first = seen.page.locator(".trouble").first
    assert "Kubelet not ready: 5 nodes" in first.inner_text()
    first.get_by_role("link", name="2 more").click()
    expect(seen.page.locator("nav.pages")).to_contain_text("1 to 5 of 5")


def test_cell_of_the_field_leads_to_its_node(fleet_of: FleetOf, visit: Visitor) -> None:
    seen = visit(fleet_of(500))
    seen.go("/")
    box = seen.page.locator("svg.field").bounding_box()
    assert box is not None
    columns = int(seen.page.get_attribute("svg.field", "data-columns") or 0)
    cell = box["width"] / columns
    seen.page.locator("svg.field").click(position={"x": 2.5 * cell, "y": 1.5 * cell})
    seen.page.wait_for_url("**/nodes/node-*")
    # The first is the node whose name begins with "n.".
    assert seen.page.text_content("h1") == f"node-{columns + 1:04}"


def test_what_strangers_wrote_is_text(fleet_of: FleetOf, visit: Visitor) -> None:
    seen = visit(fleet_of(500))
    for path in ("/", "/nodes/node-0009", "/nodes/node-0007", "/pools/gen-2.scratch"):
        seen.go(path)
        assert HOSTILE[:35] in seen.page.inner_text("main")
        assert seen.page.locator("main img").count() == 0


@pytest.mark.parametrize(
    "path",
    [
        "/nodes?name=<script>alert(1)</script>",
        '/nodes?reason="><img src=x onerror=alert(1)>',
        "/leases?namespace='><svg onload=alert(1)>&pod=<b>",
        "/nodes/<script>alert(1)</script>",
        "/pools/{{777*777}}",
        "/login?back=javascript:alert(1)&why=<b>",
        "/nodes?order=<script>",
        "/nodes?page=99999999999",
        "/nothing/<img src=x onerror=alert(1)>",
    ],
)
def test_what_a_link_says_is_text(path: str, fleet_of: FleetOf, visit: Visitor) -> None:
    seen = visit(fleet_of(3))
    assert seen.go(path).status in (200, 400, 403, 404)
    assert seen.page.locator("main script, main img, main svg[onload], main b").count() == 0
    assert "603729" not in seen.page.inner_text("main")


def test_everything_is_reached_by_keyboard(fleet_of: FleetOf, visit: Visitor) -> None:
    seen = visit(fleet_of(3))
    seen.go("/")
    seen.page.keyboard.press("Tab")
    assert seen.page.evaluate("document.activeElement.textContent") == "Skip to the content"
    seen.page.keyboard.press("Enter")
    assert seen.page.evaluate("document.activeElement.id") == "main"
    for _ in range(40):
        seen.page.keyboard.press("Tab")
        focused = seen.page.evaluate("document.activeElement.getAttribute('href')")
        outline = seen.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none"
        if focused == "/pools/databases":
            break
    seen.page.keyboard.press("Enter")
    seen.page.wait_for_url("**/pools/databases")
