"""The Kernel driver: pools and leases that live in som.ko."""
