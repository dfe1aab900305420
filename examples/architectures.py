"""Two architectures an operator may register: `partywall agent --modules examples/architectures.py`.

`digits_cnn` reads images of handwritten digits, 8 x 8 pixels, with `width` times its usual channels (default 1); `mlp`
is a plain perceptron whose sizes are options.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from isolation.engine import int_option
from node_agent.worker.modules import Architecture
from partywall.domain.models import TensorSpec


def build_digits_cnn(options: Mapping[str, str]) -> nn.Module:
    """Two convolutions and two linear layers: about 20 ms for 256 images on one core at width 1."""
    width = int_option(options, "width", 1, 1, 64)
    return nn.Sequential(
        nn.Conv2d(1, 32 * width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32 * width, 64 * width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * width * 4 * 4, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def build_mlp(options: Mapping[str, str]) -> nn.Module:
    """`depth` hidden layers of `hidden` units."""
    inputs, hidden, outputs = _sizes(options)
    layers: list[nn.Module] = []
    for _ in range(int_option(options, "depth", 1, 1, 64)):
        layers += [nn.Linear(inputs, hidden), nn.ReLU()]
        inputs = hidden
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


def _sizes(options: Mapping[str, str]) -> tuple[int, int, int]:
    return (
        int_option(options, "inputs", 64, 1, 1 << 16),
        int_option(options, "hidden", 256, 1, 1 << 16),
        int_option(options, "outputs", 10, 1, 1 << 16),
    )


def _mlp_inputs(options: Mapping[str, str]) -> tuple[TensorSpec, ...]:
    return (TensorSpec("x", "FP32", (-1, _sizes(options)[0])),)


def _mlp_outputs(options: Mapping[str, str]) -> tuple[TensorSpec, ...]:
    return (TensorSpec("y", "FP32", (-1, _sizes(options)[2])),)


ARCHITECTURES = {
    "digits_cnn": Architecture(
        build=build_digits_cnn,
        inputs=(TensorSpec("image", "FP32", (-1, 1, 8, 8)),),
        outputs=(TensorSpec("scores", "FP32", (-1, 10)),),
        max_batch=256,
        options=frozenset({"width"}),
    ),
    "mlp": Architecture(
        build=build_mlp,
        inputs=_mlp_inputs,
        outputs=_mlp_outputs,
        max_batch=256,
        options=frozenset({"inputs", "hidden", "outputs", "depth"}),
    ),
}
