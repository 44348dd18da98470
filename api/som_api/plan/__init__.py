"""What must be on each node, and how every pool stands there: the decisions of the operator. Pure.

`kubectl som plan` says by the same functions what the operator is about to do.
"""
