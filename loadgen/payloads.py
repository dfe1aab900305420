"""What is sent: serialised `ModelInferRequest`s, made before the clock starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from partywall.client.tensors import DTYPES, TensorInput, as_array, datatype_of, to_raw
from partywall.domain.models import TensorSpec
from partywall.errors import InvalidInput
from partywall.wire.inference import ModelInferRequest

MAX_DISTINCT = 2048
"""Distinct requests kept ready; a longer run goes round."""


@dataclass(frozen=True, slots=True)
class Addressee:
    """Which model a request asks for, and under which input name. `version` empty: the live one."""

    model: str
    input_name: str
    version: str = ""


def encode(to: Addressee, value: TensorInput) -> bytes:
    """One serialised request with one tensor: an array, or a list of strings (BYTES of shape [len]).

    Raises:
        InvalidInput: The protocol cannot carry the array's type.
    """
    array = as_array(to.input_name, value)
    request = ModelInferRequest(model_name=to.model, model_version=to.version)
    request.inputs.add(name=to.input_name, datatype=datatype_of(to.input_name, array), shape=array.shape)
    request.raw_input_contents.append(to_raw(to.input_name, array))
    return bytes(request.SerializeToString())


def text_file(to: Addressee, path: Path, batch: int, rng: np.random.Generator) -> list[bytes]:
    """`batch` lines of a UTF-8 text file per request; lines in shuffled order, empty ones left out.

    Raises:
        InvalidInput: The file cannot be read, is not text, or has fewer lines than one batch.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise InvalidInput(f"text: {path} cannot be read: {error.strerror}", fields={"field": "text"}) from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"text: {path} is not UTF-8 text: {error}", fields={"field": "text"}) from error
    lines = [line for line in lines if line]
    if len(lines) < batch:
        raise InvalidInput(
            f"text: {path} has {len(lines)} lines, one request takes {batch}; lower `batch` or add lines",
            fields={"field": "text"},
        )
    shuffled = [lines[i] for i in rng.permutation(len(lines))]
    full = len(shuffled) // batch * batch
    return [encode(to, shuffled[i : i + batch]) for i in range(0, min(full, batch * MAX_DISTINCT), batch)]


def npy_file(to: Addressee, path: Path, batch: int, rng: np.random.Generator) -> list[bytes]:
    """`batch` rows (first dimension) of a .npy file per request, in shuffled order.

    Raises:
        InvalidInput: The file cannot be read, holds objects, or has fewer rows than one batch.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except OSError as error:
        raise InvalidInput(f"npy: {path} cannot be read: {error.strerror or error}", fields={"field": "npy"}) from error
    except (ValueError, EOFError) as error:
        # numpy's words tell how to load pickles.
        raise InvalidInput(
            f"npy: {path} is not a .npy file of numbers; save one with numpy.save", fields={"field": "npy"}
        ) from error
    if not isinstance(array, np.ndarray) or array.ndim == 0 or len(array) < batch:
        raise InvalidInput(
            f"npy: {path} must hold one array of at least {batch} rows (`batch`)", fields={"field": "npy"}
        )
    order = rng.permutation(len(array))
    full = len(array) // batch * batch
    return [encode(to, array[order[i : i + batch]]) for i in range(0, min(full, batch * MAX_DISTINCT), batch)]


def random_tensor(
    to: Addressee, datatype: str, shape: Sequence[int], rng: np.random.Generator, distinct: int = 16
) -> list[bytes]:
    """Standard normal floats, or integers over 0..100; `distinct` different requests.

    Raises:
        InvalidInput: The type is unknown, or a dimension is not above zero.
    """
    if datatype not in DTYPES:
        raise InvalidInput(
            f"random: unknown type {datatype!r}; use one of {', '.join(DTYPES)}", fields={"field": "random"}
        )
    if not shape or any(d < 1 for d in shape):
        raise InvalidInput(f"random: dimensions must be above zero, got {list(shape)}", fields={"field": "random"})
    dtype = DTYPES[datatype]
    made = []
    for _ in range(distinct):
        values = (
            rng.standard_normal(shape) if dtype.kind == "f" else rng.integers(0, 2 if dtype.kind == "b" else 101, shape)
        )
        made.append(encode(to, values.astype(dtype)))
    return made


def concrete_shape(spec: TensorSpec, batch: int) -> tuple[int, ...]:
    """A concrete shape for a declared one: a free first dimension becomes `batch`, other free ones 16."""
    return tuple((batch if axis == 0 else 16) if d < 0 else d for axis, d in enumerate(spec.shape))
