"""The page follows the fleet, and says when it does not."""

import re

from playwright.sync_api import expect

from fakes.fleet import GIB
from web.serving import Served
from web.visiting import Visitor


def test_overview_and_node_follow_the_fleet(served: Served, visit: Visitor) -> None:
    overview, node = visit(served), visit(served)
    overview.go("/")
    node.go("/nodes/node-0000")
    for seen in (overview, node):
        expect(seen.page.get_by_role("button", name="Live")).to_be_visible()
    expect(overview.page.locator("#sums .big")).to_have_text(re.compile("^5"))
    served.change(lambda: served.fleet.allocate("node-0000", 64 * GIB))
    expect(overview.page.locator("#sums .big")).to_have_text(re.compile("^29"))
    expect(node.page.locator("#pools article").first).to_contain_text("64 Gi allocated, 0 free")
    served.change(lambda: served.fleet.allocate("node-0000", 60 * GIB, whole_free_bytes=3 * GIB))
    shown = "60 Gi allocated, 4 Gi free (3 Gi in whole GiB)"
    expect(node.page.locator("#pools article").first).to_contain_text(shown)
    served.change(lambda: served.fleet.set_ready("node-0001", agent=False))
    expect(overview.page.locator(".trouble.bad")).to_contain_text("Agent not ready: 1 node")


def test_agents_are_not_asked_again_by_a_refresh(served: Served, visit: Visitor) -> None:
    seen = visit(served)
    seen.go("/nodes/node-0000")
    served.change(lambda: served.fleet.allocate("node-0000", 64 * GIB))
    expect(seen.page.locator("#pools article").first).to_contain_text("64 Gi allocated, 0 free")
    assert served.fleet.asked == ["node-0000"]
    expect(seen.page.locator("#leases tbody tr")).to_have_count(2)


def test_focus_and_place_stay_when_the_page_changes(served: Served, visit: Visitor) -> None:
    seen = visit(served)
    seen.go("/nodes")
    seen.page.locator('tbody a[href="/nodes/node-0001"]').focus()
    served.change(lambda: served.fleet.set_ready("node-0001", agent=False))
    expect(seen.page.locator(".state.bad")).to_have_text("agent not ready")
    href = seen.page.evaluate("document.activeElement.getAttribute('href')")
    assert href == "/nodes/node-0001"


def test_updates_can_be_paused(served: Served, visit: Visitor) -> None:
    seen = visit(served)
    seen.go("/")
    seen.page.get_by_role("button", name="Live").click()
    paused = seen.page.get_by_role("button", name="Paused")
    expect(paused).to_have_attribute("aria-pressed", "false")
    served.change(lambda: served.fleet.set_ready("node-0001", agent=False))
    with seen.page.expect_request("**/live?*"):
        paused.click()
    expect(seen.page.locator(".trouble.bad")).to_contain_text("Agent not ready")


def test_session_that_ends_leads_to_the_login_and_back(served: Served, visit: Visitor) -> None:
    seen = visit(served)
    seen.go("/nodes?order=name")
    expect(seen.page.get_by_role("button", name="Live")).to_be_visible()
    served.change(lambda: served.end_sessions())
    served.change(lambda: served.fleet.set_ready("node-0001", agent=False))
    seen.page.wait_for_url("**/login?*")
    assert "session has ended" in seen.page.inner_text("[role=alert]")
    assert seen.page.input_value("[name=back]") == "/nodes?order=name"
