"""Partywall: many tenants' models on shared accelerators, with the neighbours' noise kept out."""

__version__ = "0.1.0"
