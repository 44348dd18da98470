"""The agent's neighbours in a cluster: orders, pods and reports by way of the API server."""

from som_device_plugin.cluster.outside import outside

__all__ = ["outside"]
