"""Local mode: the som command and a stand-in for kubelet."""

from som_api import SomError


class Wrong(SomError):
    """What was asked for cannot be, or not on this machine; nothing was changed."""
