"""safetensors, read by us: the header is checked before a tensor is made of it, and the tensors are views.

Format: eight bytes of header length, little-endian; a JSON object of name -> dtype, shape, data_offsets; the data.
A library maps files; we have memory, and a file from a tenant whose header may lie.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from isolation.engine import Artifact
from partywall.domain.formats import MAX_SAFETENSORS_HEADER_BYTES
from partywall.errors import ArtifactRefused, Reason

_LENGTH_BYTES = 8
_DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "F32": torch.float32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a header; `start` and `end` are bytes of the whole file."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


def load_weights(artifact: Artifact) -> dict[str, torch.Tensor]:
    """All tensors of all .safetensors files, as views of anonymous memory.

    Raises:
        ArtifactRefused: No such file, a lying header (names the tensor), or a tensor in two files.
    """
    files = [name for name in artifact.names if name.endswith(".safetensors")]
    if not files:
        raise ArtifactRefused(
            f"the artifact has no .safetensors file (it holds: {', '.join(artifact.names) or 'nothing'}); "
            "export the weights with safetensors.torch.save_file",
            fields={"file": "*.safetensors"},
        )
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        data = artifact.read(file)
        for entry in parse_header(file, data):
            if entry.name in tensors:
                raise _lie(file, entry.name, "is in another file of this artifact too; keep one")
            tensors[entry.name] = _view(data, entry)
    return tensors


def parse_header(file: str, data: memoryview) -> list[Entry]:
    """The tensors of one file, in the order of their bytes.

    Raises:
        ArtifactRefused: The header is not what the file holds: sizes, offsets, gaps, overlaps, types or JSON.
    """
    if len(data) < _LENGTH_BYTES:
        raise _lie(file, "", f"has {len(data)} bytes, too few for a safetensors file; was the upload cut off?")
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if length > MAX_SAFETENSORS_HEADER_BYTES or length > len(data) - _LENGTH_BYTES:
        raise _lie(
            file,
            "",
            f"claims a header of {length} bytes in {len(data)} bytes (limit {MAX_SAFETENSORS_HEADER_BYTES}): it is cut "
            "off or not a safetensors file",
        )
    start = _LENGTH_BYTES + length
    table = _json_object(file, bytes(data[_LENGTH_BYTES:start]))
    table.pop("__metadata__", None)
    entries = [_entry(file, name, value, start) for name, value in table.items()]
    entries.sort(key=lambda entry: (entry.start, entry.end))
    position = start
    for entry in entries:
        if entry.start != position:
            what = "overlaps the tensor before it" if entry.start < position else "leaves a gap before it"
            raise _lie(
                file, entry.name, f"{what}: it starts at byte {entry.start - start}, expected {position - start}"
            )
        position = entry.end
    if position != len(data):
        last = entries[-1].name if entries else ""
        raise _lie(
            file, last, f"the header describes {position - start} bytes of data, the file has {len(data) - start}"
        )
    return entries


def _json_object(file: str, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name occurs twice")
        return found

    try:
        table = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as failure:
        raise _lie(file, "", f"has a header that is not valid JSON ({failure})") from failure
    if not isinstance(table, dict):
        raise _lie(file, "", "has a header that is not a JSON object")
    return table


def _entry(file: str, name: str, value: object, data_start: int) -> Entry:
    if not isinstance(value, dict):
        raise _lie(file, name, "is not described by an object with dtype, shape and data_offsets")
    # Any JSON may stand there, and not all of it can be looked up.
    dtype = _DTYPES.get(str(value.get("dtype")))
    if dtype is None:
        raise _lie(file, name, f"has dtype {repr(value.get('dtype'))[:80]}; known are {', '.join(_DTYPES)}")
    shape: Any = value.get("shape")
    offsets: Any = value.get("data_offsets")
    if not _whole_numbers(shape):
        raise _lie(file, name, f"has shape {shape!r}; expected a list of whole numbers")
    if not _whole_numbers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _lie(file, name, f"has data_offsets {offsets!r}; expected [start, end]")
    needed = math.prod(shape) * dtype.itemsize
    if offsets[1] - offsets[0] != needed:
        raise _lie(
            file,
            name,
            f"{value['dtype']} of shape {shape} needs {needed} bytes, the header gives {offsets[1] - offsets[0]}",
        )
    return Entry(name, dtype, tuple(shape), data_start + offsets[0], data_start + offsets[1])


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) is int and v >= 0 for v in value)


def _view(data: memoryview, entry: Entry) -> torch.Tensor:
    count = math.prod(entry.shape)
    if not count:
        return torch.empty(entry.shape, dtype=entry.dtype)
    place = data[entry.start : entry.end]
    if entry.start % entry.dtype.itemsize:
        # Kernels may assume the alignment of their type; the format does not promise it.
        place = memoryview(bytearray(place))
    return torch.frombuffer(place, dtype=entry.dtype, count=count).reshape(entry.shape)


def _lie(file: str, tensor: str, text: str) -> ArtifactRefused:
    subject = f"file {file!r}, tensor {tensor!r}:" if tensor else f"file {file!r}"
    return ArtifactRefused(
        f"{subject} {text}; export the weights again and push them",
        reason=Reason.BAD_ARTIFACT,
        fields={"file": file, "tensor": tensor},
    )
