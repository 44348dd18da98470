"""som's node agent: sources, leases, drivers, the kubelet protocol, and local mode."""

__version__ = "0.1.0"
