"""Growing, jittered pauses between attempts."""

import random

Jitter = random.Random


class Backoff:
    """Pauses that double from `first_s` to `longest_s`, each jittered over its upper half.

    Jitter spreads a fleet that lost its server in the same moment. The lower half stays fixed
    because a jitter down to zero can be drawn many times in a row, and then nothing bounds the
    number of requests: with the defaults at most 5 attempts fall into any 30 s.
    """

    def __init__(self, *, jitter: Jitter, first_s: float = 3.0, longest_s: float = 30.0) -> None:
        self._jitter = jitter
        self._first_s = first_s
        self._longest_s = longest_s
        self._failures = 0

    def reset(self) -> None:
        """Begin again after a success."""
        self._failures = 0

    def next_s(self) -> float:
        """Count one failure and return the pause before the next attempt, in seconds."""
        # The exponent is bounded: 2**1024 does not fit in a float.
        ceiling_s = min(self._longest_s, self._first_s * 2 ** min(self._failures, 32))
        self._failures += 1
        return self._jitter.uniform(ceiling_s / 2, ceiling_s)
