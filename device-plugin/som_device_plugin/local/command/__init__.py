"""The `som` command: up, run, status, down."""
