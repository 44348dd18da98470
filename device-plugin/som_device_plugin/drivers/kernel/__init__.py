"""som.ko, the kernel module."""
