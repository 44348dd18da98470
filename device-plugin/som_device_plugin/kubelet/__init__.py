"""The device plugin and PodResources protocols over unix sockets."""
