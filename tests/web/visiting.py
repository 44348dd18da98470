"""What a browser sees of the page, and what it did that nobody asked for."""

import dataclasses
from collections.abc import Callable

from playwright import sync_api

from web.serving import Served

COOKIE = "__Host-som-token"


@dataclasses.dataclass
class Visit:
    """A page in a browser of its own, and what it did that nobody asked for."""

    page: sync_api.Page
    served: Served
    faults: list[str]
    """Requests to elsewhere, errors of scripts, and what the policy has refused."""

    def go(self, path: str) -> sync_api.Response:
        """Open a path of the page."""
        answer = self.page.goto(self.served.origin + path)
        assert answer is not None
        return answer


Visitor = Callable[..., Visit]


def faults(page: sync_api.Page, served: Served) -> list[str]:
    """A list that grows with each fault of the page."""
    found: list[str] = []

    def request(sent: sync_api.Request) -> None:
        if not sent.url.startswith(f"{served.origin}/"):
            found.append(f"a request to {sent.url}")

    def console(message: sync_api.ConsoleMessage) -> None:
        # A refused request is what some tests are about.
        if message.type == "error" and "Failed to load resource" not in message.text:
            found.append(message.text)

    def dialog(opened: sync_api.Dialog) -> None:
        found.append(opened.message)
        opened.dismiss()

    page.on("request", request)
    page.on("console", console)
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("dialog", dialog)
    return found
