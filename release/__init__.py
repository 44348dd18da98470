"""What `make release` makes, from one commit, the same bytes each time."""
