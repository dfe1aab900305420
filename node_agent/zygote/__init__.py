"""The zygote: a single-threaded process that has imported the frameworks and forks workers in milliseconds.

It is a process of its own, started before the agent touches gRPC, because forking a process with a live gRPC runtime
crashes or hangs the child. `python -m node_agent.zygote` is its entry; `client.ZygoteClient` is the agent's side.
"""
