"""How long something took, again and again: a histogram as Prometheus has it."""

import bisect
import itertools
from collections.abc import Sequence
from typing import Final

BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Durations:
    """Counts by bucket, and `sum_s`, all of them together."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BUCKETS_S) + 1)
        self.sum_s = 0.0

    def note(self, taken_s: float) -> None:
        """It took so many seconds this time."""
        self._counts[bisect.bisect_left(BUCKETS_S, taken_s)] += 1
        self.sum_s += taken_s

    def buckets(self) -> Sequence[tuple[str, float]]:
        """(upper bound in seconds, how many took no longer), the last one for all of them."""
        bounds = [*map(str, BUCKETS_S), "+Inf"]
        return list(zip(bounds, itertools.accumulate(self._counts), strict=True))
