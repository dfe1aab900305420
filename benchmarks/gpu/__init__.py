"""What the checks on hardware share; the commands are `benchmarks/gpu_*.py`."""
