"""Local mode: the som command and a stand-in for kubelet."""
