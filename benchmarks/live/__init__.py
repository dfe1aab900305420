"""Benchmarks that drive a real `partywall up` on the CPU device."""
