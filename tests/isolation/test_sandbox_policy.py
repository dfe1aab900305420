"""The sandbox against simulated kernels of every Landlock ABI."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

import node_agent
from isolation.sandbox import Layer, SandboxPolicy, SimulatedKernel, apply, ruleset_for_abi, scrub_environment
from isolation.sandbox import system_policy as make_system_policy
from isolation.sandbox.landlock import READ, WRITE, FileRight
from isolation.sandbox.policy import installed_folders
from partywall.domain.fleet import DeviceKind
from partywall.errors import Unsupported

POLICY = SandboxPolicy(read_paths=(Path("/r"),), write_paths=(Path("/w"),))


def test_all_layers_stand_on_a_kernel_that_has_them() -> None:
    kernel = SimulatedKernel(abi=7)
    states = apply(POLICY, kernel)
    assert {s.layer for s in states} == set(Layer)
    assert all(s.active for s in states)
    assert kernel.parent_death_signal() == signal.SIGKILL
    assert kernel.core_limit() == 0
    assert not kernel.dumpable()


@pytest.mark.parametrize(
    ("abi", "net", "scoped", "newest"),
    [
        (1, 0, 0, FileRight.MAKE_SYM),
        (2, 0, 0, FileRight.REFER),
        (3, 0, 0, FileRight.TRUNCATE),
        (4, 3, 0, FileRight.TRUNCATE),
        (5, 3, 0, FileRight.IOCTL_DEV),
        (6, 3, 3, FileRight.IOCTL_DEV),
        (7, 3, 3, FileRight.IOCTL_DEV),
    ],
)
def test_ruleset_uses_what_the_abi_knows_and_no_more(abi: int, net: int, scoped: int, newest: FileRight) -> None:
    ruleset = ruleset_for_abi(abi, POLICY.read_paths, POLICY.write_paths)
    assert (ruleset.handled_net, ruleset.scoped) == (net, scoped)
    assert ruleset.handled_files == (newest << 1) - 1
    assert all(rights & ~ruleset.handled_files == 0 for _, rights in ruleset.rules)


def test_nothing_may_be_executed_anywhere() -> None:
    for _, rights in ruleset_for_abi(7, POLICY.read_paths, POLICY.write_paths).rules:
        assert not rights & FileRight.EXECUTE
    assert not READ & FileRight.WRITE_FILE
    assert WRITE & FileRight.WRITE_FILE


def test_a_kernel_without_landlock_is_reported() -> None:
    states = {s.layer: s for s in apply(POLICY, SimulatedKernel(abi=0))}
    assert not states[Layer.LANDLOCK].active
    assert states[Layer.NO_NEW_PRIVS].active


@pytest.mark.parametrize(
    ("broken", "layer"),
    [
        ("set_no_new_privs", Layer.NO_NEW_PRIVS),
        ("set_not_dumpable", Layer.NOT_DUMPABLE),
        ("set_core_limit", Layer.NO_CORE_DUMPS),
        ("set_parent_death_signal", Layer.PARENT_DEATH),
        ("landlock_restrict", Layer.LANDLOCK),
    ],
)
def test_required_refuses_where_a_layer_is_missing(broken: str, layer: Layer) -> None:
    kernel = SimulatedKernel(broken=frozenset({broken}))
    assert layer in {s.layer for s in apply(POLICY, kernel) if not s.active}
    required = SandboxPolicy(required=True)
    with pytest.raises(Unsupported) as refused:
        apply(required, SimulatedKernel(broken=frozenset({broken})))
    # no_new_privs comes first: without it Landlock cannot stand either.
    assert refused.value.fields["layer"] == layer.value


def test_landlock_needs_no_new_privs() -> None:
    kernel = SimulatedKernel(broken=frozenset({"set_no_new_privs"}))
    states = {s.layer: s for s in apply(POLICY, kernel)}
    assert not states[Layer.LANDLOCK].active
    assert kernel.rulesets == []


def test_environment_keeps_no_secret() -> None:
    scrubbed = scrub_environment(
        {"PATH": "/bin", "AWS_SECRET_ACCESS_KEY": "x", "PARTYWALL_API_KEY": "y", "CUDA_MODULE_LOADING": "LAZY"}
    )
    assert scrubbed == {"PATH": "/bin", "CUDA_MODULE_LOADING": "LAZY"}


def test_system_policy_opens_gpu_nodes_to_gpu_workers_only() -> None:
    cpu = make_system_policy(DeviceKind.CPU, {})
    gpu = make_system_policy(DeviceKind.GPU, {"CUDA_MPS_PIPE_DIRECTORY": "/run/mps-0"})
    assert cpu.write_paths == (Path("/dev/null"),)
    assert {Path("/dev/nvidiactl"), Path("/run/mps-0")} <= set(gpu.write_paths)


def test_folders_of_the_search_path_are_libraries_where_something_was_installed_into_them(tmp_path: Path) -> None:
    installed, plain = tmp_path / "site", tmp_path / "checkout"
    (installed / "structlog-26.1.0.dist-info").mkdir(parents=True)
    plain.mkdir()
    assert installed_folders(["", str(installed), str(plain), str(tmp_path / "gone")]) == [installed]


def test_system_policy_does_not_open_the_checkout() -> None:
    root = Path(node_agent.__file__).parents[1]
    reads = make_system_policy(DeviceKind.CPU, {}).read_paths
    assert root not in reads
    assert root / "node_agent" in reads
