"""What `benchmarks/walls.py` is made of: victims and neighbours, rounds between the noise of others, the page."""
