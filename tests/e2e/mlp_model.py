"""The perceptron that most of these tests push: its weights, and how it is pushed."""

from __future__ import annotations

from typing import Any

import numpy as np

MLP_OPTIONS = ("--engine", "module", "--option", "architecture=mlp", "--option", "inputs=16", "--option", "outputs=4")


def mlp_files(inputs: int = 16, outputs: int = 4, seed: int = 7) -> dict[str, np.ndarray[Any, Any]]:
    """Weights of examples/architectures.py's `mlp` with 256 hidden units."""
    rng = np.random.default_rng(seed)
    return {
        "0.weight": rng.standard_normal((256, inputs)).astype(np.float32),
        "0.bias": np.zeros(256, np.float32),
        "2.weight": rng.standard_normal((outputs, 256)).astype(np.float32),
        "2.bias": np.zeros(outputs, np.float32),
    }
