"""The way in and out: a token becomes a cookie, and a refused one is told why."""

from typing import Final

from starlette import requests, responses

from som_api.web import access, refusals
from som_api.web.page import rendering, session, texts

_ENDED: Final = "Your session has ended: the token has expired, or was taken back. Sign in again."


class Door:
    """The requests of login and logout."""

    def __init__(self, rights: access.Access) -> None:
        self._rights = rights

    async def login(self, request: requests.Request) -> responses.Response:
        """The form, or what it sent."""
        if request.method != "POST":
            asked = request.query_params
            back = session.local(asked.get("back", "/"))
            said = _ENDED if asked.get("why") == "ended" else ""
            return rendering.answer(request, "login.html", said=said, wrong=False, back=back)
        session.demand_same_origin(request)
        sent = await session.form(request)
        token, back = "".join(sent.get("token", "").split()), session.local(sent.get("back", "/"))
        try:
            if len(token) > session.LONGEST_TOKEN:
                raise refusals.Refusal(
                    401,
                    f"This token has more than {session.LONGEST_TOKEN} characters, which no "
                    "browser keeps. Use a shorter one, or a proxy that passes it.",
                )
            await self._rights.caller(token)
        except refusals.Refusal as refusal:
            said = _why_not(token, refusal)
            return rendering.answer(
                request, "login.html", said=said, wrong=True, back=back, status=refusal.code
            )
        response = responses.RedirectResponse(back, 303)
        session.keep(response, token)
        return response

    async def logout(self, request: requests.Request) -> responses.Response:
        """The browser forgets the token."""
        session.demand_same_origin(request)
        response = responses.RedirectResponse("/login", 303)
        session.forget(response)
        return response


def _why_not(token: str, refusal: refusals.Refusal) -> str:
    now = rendering.now()
    if ended := session.expired(token, now=now):
        return (
            f"This token expired on {ended:%Y-%m-%d at %H:%M} UTC, {texts.age_of(ended, now)} ago. "
            "Make a new one, and sign in with that."
        )
    return str(refusal)
