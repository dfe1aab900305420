"""The public port's gRPC server: completions of gRPC's core, taken many at a time on the router's own loop."""
