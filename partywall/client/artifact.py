"""A model folder as it would be pushed: which files, and whether they may go."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from partywall.client.formats import check_content, read_json
from partywall.domain.names import check_file_name
from partywall.errors import ArtifactRefused, InvalidInput, Reason
from partywall.sealed.format import MAX_PLAIN_BYTES

TRANSFORMERS = "transformers"
IDENTITY = "identity"
"""Has no weights: its folder may be empty."""
_CONFIGS_WITH_CODE = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")


@dataclass(frozen=True, slots=True)
class LocalFile:
    """One file to push. `size` in bytes."""

    path: Path
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class LocalArtifact:
    """What of a folder is pushed, and what is not (hidden files and folders)."""

    files: tuple[LocalFile, ...]
    skipped: tuple[str, ...] = ()

    @property
    def plain_bytes(self) -> int:
        return sum(file.size for file in self.files)


def inspect_folder(folder: Path, engine: str, options: Mapping[str, str]) -> LocalArtifact:
    """Checks a model folder before anything is sent. Reads only the beginnings of the files.

    Raises:
        InvalidInput: The folder or a file name does not do.
        ArtifactRefused: A file is empty, malformed, or of a kind that is never loaded.
    """
    entries = _entries(folder)
    files = tuple(_local_file(entry) for entry in entries if entry.is_file() and not entry.name.startswith("."))
    skipped = tuple(f"{e.name}/" if e.is_dir() else e.name for e in entries if e.is_dir() or e.name.startswith("."))
    if not files and engine != IDENTITY:
        raise InvalidInput(
            f"folder {str(folder)!r} holds no model files; give the folder with the weights and their configuration",
            fields={"field": "folder"},
        )
    for file in files:
        _check_file(file)
    if engine == TRANSFORMERS:
        _check_transformers(folder, {file.name for file in files}, options)
    return LocalArtifact(files, skipped)


def _entries(folder: Path) -> list[Path]:
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise InvalidInput(
            f"folder {str(folder)!r} {what}; give the folder with the model's files", fields={"field": "folder"}
        )
    try:
        return sorted(folder.iterdir())
    except OSError as failure:
        raise unreadable(folder, failure) from failure


def _local_file(path: Path) -> LocalFile:
    check_file_name(path.name)
    return LocalFile(path, path.name, path.stat().st_size)


def _check_file(file: LocalFile) -> None:
    if file.size == 0:
        raise ArtifactRefused(
            f"file {file.name!r} is empty (0 bytes); copy it again or remove it from the folder",
            fields={"file": file.name},
        )
    if file.size > MAX_PLAIN_BYTES:
        raise ArtifactRefused(
            f"file {file.name!r} has {file.size} bytes, the sealed format holds {MAX_PLAIN_BYTES}; split the weights",
            fields={"file": file.name},
        )
    if not os.access(file.path, os.R_OK):
        raise unreadable(file.path, PermissionError(13, "Permission denied"))
    try:
        check_content(file.path, file.size)
    except OSError as failure:
        raise unreadable(file.path, failure) from failure


def _check_transformers(folder: Path, names: set[str], options: Mapping[str, str]) -> None:
    if "trust_remote_code" in options:
        raise _remote_code("option trust_remote_code is not offered")
    missing = [name for name in ("config.json", "tokenizer.json") if name not in names]
    if not any(name.endswith(".safetensors") for name in names):
        missing.append("*.safetensors")
    if missing:
        raise ArtifactRefused(
            f"folder {str(folder)!r} lacks {', '.join(missing)}, which engine transformers needs; save the model and "
            "its fast tokenizer with save_pretrained(folder, safe_serialization=True)",
            fields={"field": "folder", "missing": ", ".join(missing)},
        )
    for name in _CONFIGS_WITH_CODE:
        if name in names:
            _check_config(folder / name)


def _check_config(path: Path) -> None:
    config = read_json(path)
    if not isinstance(config, dict):
        raise ArtifactRefused(
            f"file {path.name!r} is not a JSON object; export the model again", fields={"file": path.name}
        )
    for key in ("auto_map", "trust_remote_code", "custom_pipelines"):
        if config.get(key):
            raise _remote_code(f"file {path.name!r} has {key!r}, which points at code shipped with the model")


def _remote_code(what: str) -> ArtifactRefused:
    return ArtifactRefused(
        f"{what}: remote code is never run; use an architecture that transformers itself has, or ask the operator to "
        "register yours (engine module)",
        reason=Reason.UNSAFE_FORMAT,
        fields={"field": "config"},
    )


def unreadable(path: Path, failure: OSError) -> InvalidInput:
    """The error for a file that the operating system does not give."""
    return InvalidInput(
        f"{str(path)!r} cannot be read ({failure.strerror}); check its permissions", fields={"file": path.name}
    )
