"""Enforced shares of a device: the `Partitioner` seam, one module for each kind, the authority that owns them."""
