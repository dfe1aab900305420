"""What a request costs in router, agent and worker, beside a bare gRPC echo in the same rounds."""

from benchmarks.dataplane.bench import Comparison, Plan, compare

__all__ = ["Comparison", "Plan", "compare"]
