"""Counts the requests to the API server by their outcome, and times them."""

import collections
import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Final

from som_api.kube import errors
from som_api.run import durations

OK: Final = "ok"
NO_ANSWER: Final = "none"


class Requests:
    """What one component has asked. Verbs are HTTP's, and WATCH until its answer begins."""

    def __init__(self) -> None:
        self._codes: collections.Counter[tuple[str, str]] = collections.Counter()
        self._took: collections.defaultdict[str, durations.Durations] = collections.defaultdict(
            durations.Durations
        )

    @contextlib.contextmanager
    def measured(self, verb: str) -> Iterator[None]:
        """Count and time the request of the block, which raises KubeError when it failed."""
        begun_s, code = time.perf_counter(), NO_ANSWER
        try:
            yield
            code = OK
        except errors.KubeError as error:
            code = str(error.status or NO_ANSWER)
            raise
        finally:
            self._codes[verb, code] += 1
            self._took[verb].note(time.perf_counter() - begun_s)

    @property
    def codes(self) -> Mapping[tuple[str, str], int]:
        """Requests by verb and by the status of their answer: OK, a number, or NO_ANSWER."""
        return self._codes

    @property
    def took(self) -> Mapping[str, durations.Durations]:
        """How long requests took, by verb."""
        return self._took
