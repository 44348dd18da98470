"""The operator: from SomPools to what every node reserves and advertises."""

from importlib import metadata
from typing import Final

__version__: Final = metadata.version("som")
