"""The walls around one worker process that need no privileges: Landlock, no new privileges, no dumps, no environment.

`apply` is called once in a freshly forked process, after the partition is set and before a tenant's model comes in.
"""

from isolation.sandbox.kernel import LinuxKernel, SandboxKernel, SimulatedKernel
from isolation.sandbox.landlock import Ruleset, ruleset_for_abi
from isolation.sandbox.policy import Layer, LayerState, SandboxPolicy, apply, scrub_environment, system_policy

__all__ = [
    "Layer",
    "LayerState",
    "LinuxKernel",
    "Ruleset",
    "SandboxKernel",
    "SandboxPolicy",
    "SimulatedKernel",
    "apply",
    "ruleset_for_abi",
    "scrub_environment",
    "system_policy",
]
