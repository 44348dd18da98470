"""Memory from hugetlbfs: the driver, and the hold of a pool. Workers import from here: no face."""
