from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn

from isolation.engine import MemoryArtifact
from node_agent.worker import engines
from node_agent.worker.modules import Architecture, ModuleEngine, fill, register
from node_agent.worker.tensors import choose_device, to_numpy, to_torch
from partywall.domain.fleet import DeviceKind
from partywall.domain.models import TensorSpec
from partywall.errors import ArtifactRefused, InternalError, InvalidInput, NotReady, Unsupported

EXAMPLES = str(Path(__file__).parents[2] / "examples" / "architectures.py")
ENGINE = ModuleEngine([EXAMPLES], DeviceKind.CPU)


def weights_of(name: str, **options: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return register([EXAMPLES])[name].build(options).state_dict()


def artifact(weights: dict[str, torch.Tensor]) -> MemoryArtifact:
    return MemoryArtifact({"model.safetensors": save(weights)})


def test_digits_cnn_computes_what_the_network_computes() -> None:
    weights = weights_of("digits_cnn")
    model = ENGINE.load(artifact(weights), {"architecture": "digits_cnn"}, 0)
    network = register([EXAMPLES])["digits_cnn"].build({})
    network.load_state_dict(weights)
    images = np.random.default_rng(1).random((3, 1, 8, 8), dtype=np.float32)
    expected = network(torch.from_numpy(images)).detach().numpy()
    assert np.allclose(model.run({"image": images}, 3)["scores"], expected, atol=1e-6)
    assert model.signature.max_batch == 256
    assert model.memory_bytes == sum(t.numel() * 4 for t in weights.values())


def test_mlp_takes_its_sizes_from_options() -> None:
    options = {"architecture": "mlp", "inputs": "3", "hidden": "5", "outputs": "2", "depth": "2"}
    model = ENGINE.load(artifact(weights_of("mlp", **options)), options, 16)
    assert model.signature.inputs == (TensorSpec("x", "FP32", (-1, 3)),)
    assert model.signature.max_batch == 16
    assert model.run({"x": np.ones((4, 3), np.float32)}, 4)["y"].shape == (4, 2)


def test_half_precision_weights_become_the_architectures_own() -> None:
    weights = {name: t.half() for name, t in weights_of("mlp").items()}
    model = ENGINE.load(artifact(weights), {"architecture": "mlp"}, 0)
    assert model.run({"x": np.ones((1, 64), np.float32)}, 1)["y"].dtype == np.float32


def without(name: str) -> dict[str, torch.Tensor]:
    weights = weights_of("mlp")
    del weights[name]
    return weights


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        (without("0.weight"), r"needs tensor '0.weight' \[256, 64\], the weights lack it"),
        ({**weights_of("mlp"), "extra": torch.zeros(1)}, r"hold tensor 'extra'"),
        ({**weights_of("mlp"), "0.bias": torch.zeros(7)}, r"'0.bias'.*expects shape \[256\], the weights have \[7\]"),
    ],
)
def test_weights_that_do_not_fit_are_named(weights: dict[str, torch.Tensor], text: str) -> None:
    with pytest.raises(ArtifactRefused, match=text):
        ENGINE.load(artifact(weights), {"architecture": "mlp"}, 0)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "'architecture' is missing: .*; this node has: digits_cnn, mlp"),
        ({"architecture": "mlp", "width": "3"}, "'width' is unknown"),
        ({"architecture": "mlp", "inputs": "many"}, "'inputs' must be a whole number"),
    ],
)
def test_options_are_checked(options: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        ENGINE.load(artifact(weights_of("mlp")), options, 0)


def test_an_architecture_that_is_not_registered_here_may_come() -> None:
    with pytest.raises(NotReady, match="'resnet' is not registered on this node; it has: digits_cnn, mlp"):
        ENGINE.load(artifact(weights_of("mlp")), {"architecture": "resnet"}, 0)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("x = 1", "has no ARCHITECTURES"),
        ("ARCHITECTURES = {'a': 1}", "has no ARCHITECTURES"),
        ("raise RuntimeError('broken')", "RuntimeError: broken"),
    ],
)
def test_a_module_that_registers_nothing(tmp_path: Path, source: str, text: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(source)
    with pytest.raises(InternalError, match=text):
        register([str(path)])


def test_a_name_registered_twice() -> None:
    with pytest.raises(InternalError, match="registered already"):
        register([EXAMPLES, EXAMPLES])


def test_a_module_by_its_importable_name() -> None:
    with pytest.raises(InternalError, match="has no ARCHITECTURES"):
        register(["node_agent.worker.codec"])
    with pytest.raises(InternalError, match="ModuleNotFoundError"):
        register(["partywall_no_such_module"])


class WithTable(nn.Module):
    """Has a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.register_buffer("table", torch.tensor([1.0, 2.0]), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + self.table


def test_buffers_that_are_not_saved_are_computed() -> None:
    network = fill(WithTable, {"linear.weight": torch.zeros(2, 2), "linear.bias": torch.zeros(2)}, "t")
    assert network(torch.ones(1, 2)).tolist() == [[1.0, 2.0]]


def engine_of(tmp_path: Path, outputs: str) -> ModuleEngine:
    path = tmp_path / "one.py"
    path.write_text(
        "from torch import nn\nfrom node_agent.worker.modules import Architecture\n"
        "from partywall.domain.models import TensorSpec\n"
        "ARCHITECTURES = {'a': Architecture(lambda o: nn.Linear(2, 2), (TensorSpec('x', 'FP32', (-1, 2)),), "
        f"({outputs},))}}\n"
    )
    return ModuleEngine([str(path)], DeviceKind.CPU)


@pytest.mark.parametrize("outputs", ["TensorSpec('y', 'FP32', (-1, 3))", "TensorSpec('y', 'INT64', (-1, 2))"])
def test_an_architecture_that_declares_what_it_does_not_give(tmp_path: Path, outputs: str) -> None:
    weights = {"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}
    with pytest.raises(InternalError, match=r"output 'y': declared .* found float32 \[1, 2\]"):
        engine_of(tmp_path, outputs).load(artifact(weights), {"architecture": "a"}, 0)


def test_architecture_is_frozen() -> None:
    made = Architecture(lambda _: nn.Linear(1, 1), (), ())
    with pytest.raises(AttributeError):
        made.max_batch = 3  # type: ignore[misc]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.uint16])
def test_tensors_keep_their_values_both_ways(dtype: torch.dtype) -> None:
    tensor = torch.tensor([[1, 0, 1]]).to(dtype)
    array = to_numpy(tensor)
    array.setflags(write=False)
    assert torch.equal(to_torch(array, torch.device("cpu")), tensor)


def test_a_gpu_partition_without_cuda_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(Unsupported, match="CUDA shows none"):
        choose_device(DeviceKind.GPU)


def test_engines_by_name() -> None:
    assert [engines.create(name, [], DeviceKind.CPU).name for name in engines.NAMES] == list(engines.NAMES)
    with pytest.raises(InvalidInput, match="'onnx' is unknown; use one of identity, module, transformers"):
        engines.create("onnx", [], DeviceKind.CPU)
