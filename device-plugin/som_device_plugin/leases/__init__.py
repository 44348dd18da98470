"""Who holds which memory: the life of a lease, its store and its reconciliation."""
