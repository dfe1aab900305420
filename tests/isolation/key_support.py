"""A key provider of files, and the names that tests of keys use."""

from __future__ import annotations

from pathlib import Path

from isolation.vault.keyfile import KeyFileProvider, create_root

TENANT, OTHER, ARTIFACT = "tenant-a", "tenant-b", "artifact-1"


def key_file_provider(folder: Path) -> KeyFileProvider:
    create_root(folder / "root.key")
    return KeyFileProvider(folder / "root.key", folder / "keys")
