"""The one exception of this package."""

from som_api import SomError


class KubeError(SomError):
    """A request to the API server, or the preparation of one, that did not succeed.

    `status` is the HTTP status (also that of an ERROR event inside a watch), and 0 where no
    usable answer came. `reason` is the machine-readable word of metav1.Status ("NotFound",
    "Conflict", "Expired") or, with status 0, "NoAnswer", "Timeout", "BadAnswer" or "Config".
    `retry_after_s` is what the server asked for in Retry-After. A conflict (409) is a race with a
    cache that is about to learn of it.
    """

    def __init__(
        self,
        attempted: str,
        *,
        status: int,
        reason: str,
        message: str,
        retry_after_s: float | None = None,
    ) -> None:
        answer = f"{status} {reason}" if status else reason
        super().__init__(f"{attempted}: {answer}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s
        self.is_race = status == 409
