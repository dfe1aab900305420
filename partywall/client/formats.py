"""Whether a model file may be pushed: only data, whole, never code that runs when it is loaded.

The serving side checks again; these checks save the upload.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, BinaryIO

from partywall.domain.formats import HEAD_BYTES, MAX_SAFETENSORS_HEADER_BYTES, code_kind, unsafe_suffix
from partywall.errors import ArtifactRefused, Reason

_ELEMENT_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


def check_content(path: Path, size: int) -> None:
    """Refuses code, archives and malformed safetensors.

    Raises:
        ArtifactRefused: UNSAFE_FORMAT with the reason and what to do, or BAD_ARTIFACT.
    """
    with path.open("rb") as file:
        kind = code_kind(path.name, file.read(HEAD_BYTES))
        if kind is not None:
            raise _unsafe(path.name, f"is {kind}")
        suffix = unsafe_suffix(path.name)
        if suffix is not None:
            raise _unsafe(path.name, f"has the suffix {suffix} of files that hold code or pickles")
        if path.suffix == ".safetensors":
            file.seek(0)
            _check_safetensors(path.name, file, size)


def read_json(path: Path) -> Any:
    """A JSON file of a model folder.

    Raises:
        ArtifactRefused: It is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as failure:
        raise _bad(path.name, f"is not JSON ({failure})") from failure


def _check_safetensors(name: str, file: BinaryIO, size: int) -> None:
    header = _safetensors_header(name, file, size)
    data_bytes = size - file.tell()
    spans: list[tuple[int, int, str]] = []
    for tensor, entry in header.items():
        if tensor != "__metadata__":
            spans.append((*_tensor_span(name, tensor, entry), tensor))
    end = 0
    for start, stop, tensor in sorted(spans):
        if start != end:
            raise _bad(name, f"has a lying header: tensor {tensor!r} starts at {start}, the one before ends at {end}")
        end = stop
    if end > data_bytes:
        raise _bad(name, f"is truncated: its header promises {end} bytes of tensors, {data_bytes} are there")
    if end < data_bytes:
        raise _bad(name, f"has a lying header: {data_bytes - end} bytes after the last tensor belong to nothing")


def _safetensors_header(name: str, file: BinaryIO, size: int) -> dict[str, Any]:
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(MAX_SAFETENSORS_HEADER_BYTES, size - 8):
        raise _bad(name, f"is truncated or no safetensors file: its header would be {length} bytes of {size}")
    try:
        header = json.loads(file.read(length))
    except (ValueError, RecursionError) as failure:
        raise _bad(name, f"has a header that is not JSON ({failure})") from failure
    if not isinstance(header, dict):
        raise _bad(name, "has a header that is not a JSON object")
    return header


def _tensor_span(name: str, tensor: str, entry: Any) -> tuple[int, int]:
    try:
        bits, shape, (start, stop) = _ELEMENT_BITS[entry["dtype"]], entry["shape"], entry["data_offsets"]
        numbers_ok = all(type(number) is int and number >= 0 for number in (*shape, start, stop))
    except (KeyError, TypeError, ValueError) as failure:
        raise _bad(name, f"has a lying header: tensor {tensor!r} lacks a known dtype, shape or offsets") from failure
    if not numbers_ok or (stop - start) * 8 != bits * math.prod(shape):
        raise _bad(
            name,
            f"has a lying header: tensor {tensor!r} of {entry['dtype']} {shape} does not fit offsets {start} to {stop}",
        )
    return start, stop


def _unsafe(name: str, what: str) -> ArtifactRefused:
    return ArtifactRefused(
        f"file {name!r} {what}: loading it could run code, so it is not taken; save the weights with "
        "safetensors.torch.save_file and push that, or remove the file from the folder",
        reason=Reason.UNSAFE_FORMAT,
        fields={"file": name},
    )


def _bad(name: str, what: str) -> ArtifactRefused:
    return ArtifactRefused(
        f"file {name!r} {what}; export or copy it again", reason=Reason.BAD_ARTIFACT, fields={"file": name}
    )
