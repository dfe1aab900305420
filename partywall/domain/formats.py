"""Which files only hold data, told by name and first bytes: pushing side, router and worker judge by the same rules.

Formats whose loading runs code, or may: Python pickles under any of their names (CVE-2025-32434 and CVE-2026-24747 show
that `weights_only` is no sandbox), TorchScript and `.pt2` archives (`torch.export.load` unpickles on 2.13.0), Keras and
HDF5 files (Lambda layers), NumPy files (object arrays are pickles), scripts and libraries.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

MAX_SAFETENSORS_HEADER_BYTES = 100_000_000
"""The limit of the safetensors format itself (safetensors/src/tensor.rs, MAX_HEADER_SIZE)."""
HEAD_BYTES = 265
"""How much of a file `code_kind` wants to see: a tar archive says what it is after 257 bytes."""

UNSAFE_SUFFIXES = frozenset(
    {
        *(".pt", ".pth", ".pt2", ".ptl", ".torchscript", ".ckpt", ".mar", ".bin"),
        *(".pkl", ".pickle", ".dill", ".joblib", ".npy", ".npz", ".h5", ".hdf5", ".keras"),
        *(".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".sh", ".jar", ".whl"),
    }
)
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a zip archive (torch.save, TorchScript, .pt2, .mar)"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x7fELF", "a native program or library (ELF)"),
    (b"MZ", "a native program or library (PE)"),
    (b"\xcf\xfa\xed\xfe", "a native program or library (Mach-O)"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"\x89HDF", "an HDF5 file (Keras layers can carry code)"),
    (b"\x93NUMPY", "a NumPy file"),
    (b"#!", "a script"),
)
_PICKLE_BINARY = re.compile(rb"\x80[\x02-\x05]")
# Protocols 0 and 1 have no magic: a GLOBAL opcode, or an empty container and a mark, at the very start.
_PICKLE_TEXT = re.compile(rb"(?:\(|\]|\}|q.)*c[A-Za-z_][\w.]*\n[A-Za-z_][\w.]*\n|\((?:lp|dp|ip)\d+\n", re.DOTALL)
_TAR_MAGIC_AT = 257
_JSON_OBJECT = ord("{")


def unsafe_suffix(name: str) -> str | None:
    """The suffix of a kind of file that can hold code, or None. Every suffix counts: `weights.pkl.gz` is a pickle."""
    return min(set(map(str.lower, PurePosixPath(name).suffixes)) & UNSAFE_SUFFIXES, default=None)


def code_kind(name: str, head: bytes) -> str | None:
    """What a file is, where its first bytes say that loading it can run code; None: they do not.

    Args:
        head: The first `HEAD_BYTES` of it, or all where it is shorter.
    """
    if name.endswith(".safetensors") and _starts_as_safetensors(head):
        # Its first bytes are a length, and some lengths read like the first bytes of a pickle or a script.
        return None
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if _PICKLE_BINARY.match(head) or _PICKLE_TEXT.match(head):
        return "a Python pickle"
    if head[_TAR_MAGIC_AT : _TAR_MAGIC_AT + 5] == b"ustar":
        return "a tar archive"
    return None


def _starts_as_safetensors(head: bytes) -> bool:
    length = int.from_bytes(head[:8], "little")
    return len(head) > 8 and head[8] == _JSON_OBJECT and length <= MAX_SAFETENSORS_HEADER_BYTES
