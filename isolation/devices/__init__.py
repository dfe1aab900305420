"""What a node computes on: the seam to the driver (`library`), its NVML side, its simulated side, and the CPU."""
