"""What of the code needs a GPU, and how it is tried on one: the list behind docs/results/gpu.md."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pending:
    """One piece. `code`: the modules; `tries`: the command on hardware, empty where there is none."""

    name: str
    code: tuple[str, ...]
    tries: str
    simulated: str


CHECKS = "python benchmarks/gpu_checks.py"
LIVE = "python benchmarks/gpu_live.py"
PROFILE = "python benchmarks/gpu_profile.py"
CONTRACT = "pytest -m gpu"

PREPARED = (
    Pending(
        "NvmlLibrary: inventory, memory, processes, power",
        ("isolation/devices/nvml.py", "isolation/devices/nvml_calls.py"),
        f"{CHECKS}, {CONTRACT}",
        "over a binding with NVML's own ways",
    ),
    Pending(
        "MPS control daemon: start, adoption, queries, clients, end of a client",
        ("isolation/partition/mps_daemon.py", "isolation/partition/assembly.py"),
        CHECKS,
        "a stand-in for the binary",
    ),
    Pending(
        "MPS shares: visible SMs, a worker past its daemon, memory cap, kill -9 of a neighbour",
        ("isolation/partition/mps.py", "isolation/partition/whole.py", "node_agent/worker/attest.py"),
        CHECKS,
        "SimulatedMps",
    ),
    Pending("static SM partitions", ("isolation/partition/mps_daemon.py",), CHECKS, "a stand-in for the binary"),
    Pending("GPM counters", ("isolation/devices/nvml_counters.py",), CHECKS, "simulated load"),
    Pending(
        "MIG, read only: profile ids, SM counts, placements", ("isolation/devices/nvml_mig.py",), CHECKS, "SimulatedGpu"
    ),
    Pending(
        "weights parked in page-locked memory and woken: what is freed, the rates, waking without room",
        ("node_agent/worker/device_memory.py", "node_agent/worker/moving.py"),
        CHECKS,
        "SimulatedMemory: tensors on the CPU, bytes counted",
    ),
    Pending(
        "the agent's road: served at 25/75 and 50/50, resize under load, a worker killed mid-batch",
        ("node_agent/node.py", "node_agent/walls.py", "node_agent/worker/tensors.py"),
        LIVE,
        "gpu_live.py --simulate h100",
    ),
    Pending(
        "zygote and CUDA: forked workers that initialise the device, one and eight at once",
        ("node_agent/zygote/child.py", "isolation/sandbox/policy.py"),
        LIVE,
        "on the CPU",
    ),
    Pending(
        "CUDA probes: each alone, pairs, repeatability; `partywall profile` of a served network",
        ("isolation/interference/probes_cuda.py", "node_agent/worker/probe.py"),
        PROFILE,
        "CPU probes, simulated bench",
    ),
)
"""There is a command; it has met no GPU yet."""

UNTRIED = (
    Pending(
        "MIG: creating and destroying instances, turning it on or off, roll back",
        ("isolation/partition/mig.py", "isolation/devices/nvml_mig.py"),
        "",
        "SimulatedGpu only",
    ),
    Pending(
        "MIG instances that stand, adopted and served from by the live agent",
        ("isolation/partition/mig.py", "isolation/partition/authority.py"),
        "",
        "--simulate-devices h100-mig",
    ),
    Pending(
        "Xid and ECC events, a lost GPU, fencing",
        ("isolation/devices/faults.py", "node_agent/device_watch.py"),
        "",
        "SimulatedGpu only",
    ),
    Pending(
        "MPS servers in a fault, the client limit of a server", ("node_agent/device_watch.py",), "", "SimulatedMps only"
    ),
    Pending(
        "a device-side assert, an MMU fault: the worker ends, neighbours as documented",
        ("node_agent/worker/batch.py",),
        "",
        "raised errors",
    ),
    Pending("CUDA out of memory and the circuit over it", ("node_agent/memory_circuit.py",), "", "a simulated engine"),
    Pending(
        "models on a GPU: `module` and `transformers` engines, `dtype` bfloat16 and float16",
        ("node_agent/worker/modules.py", "node_agent/worker/transformers.py"),
        "",
        "on the CPU; gpu_live.py serves a perceptron",
    ),
    Pending(
        "a sealed artifact to GPU memory: its speed",
        ("node_agent/worker/loader.py", "node_agent/worker/weights.py"),
        "",
        "benchmarks/sealed.py, into host memory",
    ),
    Pending(
        "`partywall doctor` on a machine with a GPU", ("partywall/cli/local/gpu_checks.py",), "", "simulated library"
    ),
    Pending("several GPUs in one node", ("node_agent/node.py",), "", "simulated nodes"),
    Pending("the live interference model against co-runs on a GPU", ("router/gateway/correction.py",), "", "CPU"),
)
"""Simulated sides only, or never: no command tries it on hardware."""

NEVER = (
    *(one.name for one in UNTRIED),
    "static SM partitions, unless a row above says that this driver has them",
    "MPS inside a MIG instance: not offered",
    "green contexts: not offered",
)


def pending_page() -> str:
    """docs/results/gpu.md as long as no hardware has been there."""
    prepared = [f"| {one.name} | `{'`, `'.join(one.tries.split(', '))}` | {one.simulated} |" for one in PREPARED]
    untried = [f"| {one.name} | {one.simulated} |" for one in UNTRIED]
    lines = [
        "# Walls on hardware",
        "",
        "Nothing on this page has run on a GPU with this code. `make test-gpu` on a machine with one replaces the page",
        "by what was seen; without one it ends with an error and writes nothing. Made by",
        "`python benchmarks/gpu_checks.py --pending`.",
        "",
        "## Prepared: a command tries it",
        "",
        "| what | command | tried until then |",
        "| --- | --- | --- |",
        *prepared,
        "",
        "## Not on hardware, by name",
        "",
        "| what | tried until then |",
        "| --- | --- |",
        *untried,
        "",
        "Not offered at all: MPS inside a MIG instance; green contexts. What was measured on an H100 before",
        "this code was written is marked so in [walls](../walls.md).",
        "",
    ]
    return "\n".join(lines)
