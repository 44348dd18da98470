"""Pools of HugeTLB pages: reserved from the kernel, counted, kept from others."""
