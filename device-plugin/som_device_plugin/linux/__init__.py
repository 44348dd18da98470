"""Thin adapters to the kernel: one module per concern, plain functions, no decisions."""
