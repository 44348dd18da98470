"""The operator: from SomPools to what every node reserves and advertises."""
