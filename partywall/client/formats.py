"""What a model file is, told by its first bytes: only data is pushed, never code that runs when it is loaded.

Pickle, TorchScript and `.pt2` archives execute code on load, whatever their suffix says. The serving side checks
again; these checks save the upload.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, BinaryIO

from partywall.errors import ArtifactRefused, Reason

MAX_SAFETENSORS_HEADER_BYTES = 100_000_000
"""The limit of the safetensors format itself."""

_ELEMENT_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a zip archive (torch.save, TorchScript, .pt2, .mar)"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x7fELF", "a native program or library (ELF)"),
    (b"MZ", "a native program or library (PE)"),
    (b"\xcf\xfa\xed\xfe", "a native program or library (Mach-O)"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras layers can carry code)"),
    (b"#!", "a script"),
)
_PICKLE_BINARY = re.compile(rb"\x80[\x02-\x05]")
# Protocols 0 and 1 have no magic: a GLOBAL opcode, or an empty container and a mark, at the very start.
_PICKLE_TEXT = re.compile(rb"(?:\(|\]|\}|q.)*c[A-Za-z_][\w.]*\n[A-Za-z_][\w.]*\n|\((?:lp|dp|ip)\d+\n", re.DOTALL)
_CODE_SUFFIXES = frozenset({".py", ".pyc", ".so", ".dll", ".dylib", ".sh", ".pkl", ".pickle", ".joblib"})
_CODE_SUFFIXES |= frozenset({".pt", ".pth", ".pt2", ".ckpt", ".mar", ".npy", ".npz"})
_TAR_MAGIC_AT = 257


def check_content(path: Path, size: int) -> None:
    """Refuses code, archives and malformed safetensors.

    Raises:
        ArtifactRefused: UNSAFE_FORMAT with the reason and what to do, or BAD_ARTIFACT.
    """
    with path.open("rb") as file:
        head = file.read(_TAR_MAGIC_AT + 8)
        kind = _code_kind(head)
        if kind is not None:
            raise _unsafe(path.name, f"is {kind}")
        if path.suffix.lower() in _CODE_SUFFIXES:
            raise _unsafe(path.name, f"has the suffix {path.suffix} of files that hold code or pickles")
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


def _code_kind(head: bytes) -> str | None:
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if _PICKLE_BINARY.match(head) or _PICKLE_TEXT.match(head):
        return "a Python pickle"
    if head[_TAR_MAGIC_AT : _TAR_MAGIC_AT + 5] == b"ustar":
        return "a tar archive"
    return None


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
