"""som's node agent: sources, leases, drivers, the kubelet protocol, and local mode."""
