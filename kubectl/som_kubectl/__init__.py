"""`kubectl som`: what an admin asks about som memory, and does, from a terminal."""

from typing import Final

FINE: Final = 0
AMISS: Final = 1
"""Nothing failed, but there is something to see: as `kubectl diff` and `grep` have it."""
FAILED: Final = 2
