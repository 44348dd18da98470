"""What fleet API and page of a large fleet take, for `fleet.py`: over HTTPS, with a token.

The first call finds nothing made yet, the following ones what has not changed since. All seconds
are without the time that the operator waited for a CPU which others had.
"""

import asyncio
import http.client
import ssl
import statistics
import time
from collections.abc import Callable
from typing import Final

PORT: Final = 8443
LIST: Final = "/api/v1/nodes?limit=5000"
OVERVIEW: Final = "/"
TIMES: Final = 5
PATIENCE_S: Final = 60.0
LOOKS_EVERY_S: Final = 2.0
"""As the page does while the fleet changes."""


class Viewer:
    """Somebody with a token; `cpu_s` is the operator's CPU time, `waited_s` its waiting for one."""

    def __init__(
        self, token: str, *, cpu_s: Callable[[], float], waited_s: Callable[[], float]
    ) -> None:
        self._token = token
        self._cpu_s = cpu_s
        self._waited_s = waited_s
        # The certificate's authority is not this program's subject.
        self._tls = ssl._create_unverified_context()

    async def wait(self) -> None:
        """Return once the operator has certificates and shows the fleet."""
        until_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                await self.look("/api/v1/pools")
                return
            except (OSError, http.client.HTTPException, RuntimeError):
                if time.monotonic() > until_s:
                    raise
                await asyncio.sleep(0.2)

    async def look(self, path: str) -> float:
        """Seconds until the whole answer was here. RuntimeError: another one than 200."""
        return await asyncio.to_thread(self._look, path)

    def _look(self, path: str) -> float:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", PORT, timeout=PATIENCE_S, context=self._tls
        )
        begun_s, waited_s = time.monotonic(), self._waited_s()
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {self._token}"})
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise RuntimeError(f"GET {path} was answered with {answer.status}: {body[:300]!r}")
        return time.monotonic() - begun_s - (self._waited_s() - waited_s)

    async def figures(self, name: str, path: str) -> dict[str, float]:
        """Of the first call and of the following ones: seconds, and the operator's CPU seconds."""
        found = {}
        cpu_s = self._cpu_s()
        found[f"{name}_first_s"] = await self.look(path)
        found[f"{name}_first_cpu_s"] = self._cpu_s() - cpu_s
        cpu_s = self._cpu_s()
        found[f"{name}_s"] = statistics.median([await self.look(path) for _ in range(TIMES)])
        found[f"{name}_cpu_s"] = (self._cpu_s() - cpu_s) / TIMES
        return found

    async def looking(self, path: str, looks: list[float]) -> None:
        """Look again and again, until cancelled; `looks` has the seconds of each."""
        while True:
            looks.append(await self.look(path))
            await asyncio.sleep(LOOKS_EVERY_S)
