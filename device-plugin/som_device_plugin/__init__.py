"""som's node agent: sources, leases, drivers, the kubelet protocol, and local mode."""

__version__ = "0.1.0"


class SomError(Exception):
    """Base of every error that the agent raises: says what failed, on what, and the cure."""
