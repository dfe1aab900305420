"""What may be announced at a push: engines, limits of a manifest, names and kinds of files.

The router sees ciphertext, so it judges names and sizes; the pushing side and the worker judge contents.
"""

from __future__ import annotations

from collections.abc import Sequence

from partywall.domain.formats import unsafe_suffix
from partywall.domain.models import Manifest
from partywall.domain.names import check_file_name
from partywall.errors import ArtifactRefused, InvalidInput, Reason
from partywall.sealed import sealed_size
from router.control.records import DeclaredFile

ENGINES = ("identity", "transformers", "module")
ENGINE_WITHOUT_FILES = "identity"
MODULE_ENGINE = "module"
MAX_FILES = 64
MAX_OPTIONS = 64
MAX_OPTION_CHARACTERS = 4096
MAX_BATCH = 65_536
MAX_BYTES = 1 << 62


def check_manifest(manifest: Manifest) -> None:
    """Engine and limits.

    Raises:
        InvalidInput: Names the field and what is allowed.
    """
    if manifest.engine not in ENGINES:
        raise _invalid("manifest.engine", f"{manifest.engine!r} is not an engine: use one of {', '.join(ENGINES)}")
    if manifest.engine == MODULE_ENGINE and not manifest.options.get("architecture"):
        raise _invalid(
            "manifest.options",
            f"lacks 'architecture', which the engine {MODULE_ENGINE!r} needs: name one that the operator registered "
            "(--option architecture=NAME)",
        )
    if manifest.share_percent > 100:
        raise _invalid(
            "manifest.share_percent", f"must be 0 (the planner chooses) to 100, got {manifest.share_percent}"
        )
    if manifest.max_batch > MAX_BATCH:
        raise _invalid("manifest.max_batch", f"must be at most {MAX_BATCH}, got {manifest.max_batch}")
    if manifest.memory_bytes > MAX_BYTES:
        raise _invalid("manifest.memory_bytes", f"must be at most {MAX_BYTES}, got {manifest.memory_bytes}")
    if len(manifest.options) > MAX_OPTIONS:
        raise _invalid("manifest.options", f"has {len(manifest.options)} entries; at most {MAX_OPTIONS} are taken")
    for key, value in manifest.options.items():
        if not key or len(key) + len(value) > MAX_OPTION_CHARACTERS:
            raise _invalid(
                "manifest.options", f"{key[:80]!r} must have a name and at most {MAX_OPTION_CHARACTERS} characters"
            )


def check_files(engine: str, announced: Sequence[tuple[str, int]]) -> tuple[DeclaredFile, ...]:
    """The announced (name, plain size) pairs with their sealed sizes.

    Raises:
        ArtifactRefused: UNSAFE_FORMAT, a file that could run code when it is loaded.
        InvalidInput: Too many or no files, a bad or doubled name, an empty or oversized file.
    """
    if len(announced) > MAX_FILES:
        raise _invalid("files", f"has {len(announced)} files; a version takes at most {MAX_FILES}")
    if not announced and engine != ENGINE_WITHOUT_FILES:
        raise _invalid("files", f"is empty; the engine {engine!r} needs the model's files (weights as .safetensors)")
    seen: set[str] = set()
    for name, plain_size in announced:
        _check_file(name, plain_size)
        if name in seen:
            raise _invalid("files", f"names {name!r} twice; each file has its own name")
        seen.add(name)
    return tuple(DeclaredFile(name, size, sealed_size(size)) for name, size in announced)


def _check_file(name: str, plain_size: int) -> None:
    check_file_name(name, "files.name")
    unsafe = unsafe_suffix(name)
    if unsafe is not None:
        raise ArtifactRefused(
            f"file {name!r} is refused: loading a {unsafe} file can run code. Save the weights with "
            "safetensors.torch.save_file and push the .safetensors file, or leave this file out",
            reason=Reason.UNSAFE_FORMAT,
            fields={"field": "files", "file": name, "suffix": unsafe},
        )
    if plain_size == 0:
        raise ArtifactRefused(
            f"file {name!r} has 0 bytes; export or copy it again, or leave it out",
            fields={"field": "files", "file": name},
        )
    if plain_size > MAX_BYTES:
        raise _invalid("files.plain_size", f"of {name!r} must be at most {MAX_BYTES}, got {plain_size}")


def _invalid(field: str, problem: str) -> InvalidInput:
    return InvalidInput(f"{field} {problem}", fields={"field": field})
