"""Where a pool's memory comes from."""
