"""A router in several processes: one port, one leader, and what the processes tell each other."""
