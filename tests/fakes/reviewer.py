"""The API server as the judge of tokens and rights: a table of users, each with his rights."""

import dataclasses

from som_api.web import access

ADMIN = "admin-token"
VIEWER = "viewer-token"
"""May see pools and nodes, and the pods of namespace `shop`."""
NOBODY = "nobody-token"


@dataclasses.dataclass
class FakeReviewer:
    """`tokens` maps to user names; `rights` has who may do what: (verb, plural, namespace).

    The verb "*" is every verb, and the namespace "*" every namespace and the whole cluster.
    `away` is what is raised instead of an answer; `asked` counts the questions.
    """

    tokens: dict[str, str] = dataclasses.field(
        default_factory=lambda: {ADMIN: "admin", VIEWER: "viewer", NOBODY: "nobody"}
    )
    rights: dict[str, set[tuple[str, str, str]]] = dataclasses.field(
        default_factory=lambda: {
            "admin": {("*", plural, "*") for plural in ("sompools", "somnodes", "pods", "events")},
            "viewer": {("*", "sompools", ""), ("*", "somnodes", ""), ("list", "pods", "shop")},
        }
    )
    away: Exception | None = None
    asked: int = 0

    async def caller(self, token: str) -> access.Caller | None:
        self._ask()
        name = self.tokens.get(token)
        return access.Caller(name, groups=("system:authenticated",)) if name else None

    async def is_allowed(self, caller: access.Caller, right: access.Right) -> bool:
        self._ask()
        plural = right.resource.plural
        return any(
            (verb, plural, namespace) in self.rights.get(caller.username, set())
            for verb in (right.verb, "*")
            for namespace in (right.namespace, "*")
        )

    def _ask(self) -> None:
        self.asked += 1
        if self.away is not None:
            raise self.away
