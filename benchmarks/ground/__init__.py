"""Interference's ground: many tenants' models on few simulated devices that slow each other."""
