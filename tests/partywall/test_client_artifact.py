"""Local checks before a push: what is refused, with its reason, and what goes."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from partywall.client.artifact import inspect_folder
from partywall.errors import ArtifactRefused, InvalidInput, Reason


def safetensors(header: Any = None, data: bytes = bytes(16), length: int | None = None) -> bytes:
    header = header if header is not None else {"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def folder_with(tmp_path: Path, **files: bytes) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content)
    return folder


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps([1]))
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("x"))
    return buffer.getvalue()


UNSAFE = {
    "zip": zipped(),
    "tar": tarred(),
    "elf": b"\x7fELF" + bytes(60),
    "gzip": b"\x1f\x8b" + bytes(20),
    "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(20),
    "script": b"#!/bin/sh\n",
    **{f"pickle{n}": pickle.dumps({"w": [1.0]}, protocol=n) for n in (0, 2, 3, 4, 5)},
    "pickle0 global": b"cos\nsystem\n(S'true'\ntR.",
}


@pytest.mark.parametrize("kind", sorted(UNSAFE))
@pytest.mark.parametrize("name", ["weights__safetensors", "weights__json", "weights"])
def test_code_is_refused_whatever_the_suffix(tmp_path: Path, kind: str, name: str) -> None:
    folder = folder_with(tmp_path, **{name: UNSAFE[kind]})
    with pytest.raises(ArtifactRefused, match=r"safetensors\.torch\.save_file") as caught:
        inspect_folder(folder, "module", {})
    assert caught.value.reason is Reason.UNSAFE_FORMAT


@pytest.mark.parametrize("suffix", [".pt", ".pkl", ".pt2", ".py", ".PTH", ".npy", ".bin", ".h5", ".pkl.txt"])
def test_suffixes_of_code_are_refused_whatever_the_content(tmp_path: Path, suffix: str) -> None:
    folder = folder_with(tmp_path)
    (folder / f"model{suffix}").write_bytes(b"nothing special")
    with pytest.raises(ArtifactRefused) as caught:
        inspect_folder(folder, "module", {})
    assert caught.value.reason is Reason.UNSAFE_FORMAT


@pytest.mark.parametrize("length", [0x0280, 0x0380, 0x0480, 0x0580, 0x2120 + 3, 0x5A4D])
def test_a_header_whose_length_reads_like_code_is_taken(tmp_path: Path, length: int) -> None:
    r"""640 is `\x80\x02`, as a pickle starts; 23117 is `MZ`."""
    header = json.dumps({"w": ENTRY}).encode().ljust(length)
    folder = folder_with(tmp_path, w__safetensors=safetensors(header))
    assert [file.name for file in inspect_folder(folder, "module", {}).files] == ["w.safetensors"]


ENTRY = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
LIES = {
    "truncated data": (safetensors(data=bytes(8)), "truncated"),
    "surplus": (safetensors(data=bytes(20)), "belong to nothing"),
    "seven bytes": (b"1234567", "truncated"),
    "header past the end": (safetensors(length=10_000), "truncated"),
    "header of 2^63": (safetensors(length=1 << 63), "truncated"),
    "not json": (safetensors(b"{oops"), "not JSON"),
    "not an object": (safetensors(b"[]"), "JSON object"),
    "wrong size": (safetensors({"w": {**ENTRY, "shape": [5]}}), "does not fit"),
    "unknown dtype": (safetensors({"w": {**ENTRY, "dtype": "F99"}}), "known dtype"),
    "negative shape": (safetensors({"w": {**ENTRY, "shape": [-4]}}), "does not fit"),
    "backwards": (safetensors({"w": {**ENTRY, "data_offsets": [16, 0]}}), "does not fit"),
    "three offsets": (safetensors({"w": {**ENTRY, "data_offsets": [0, 8, 16]}}), "known dtype"),
    "overlap": (safetensors({"a": ENTRY, "b": {**ENTRY, "data_offsets": [8, 24]}}, bytes(24)), "starts at 8"),
    "hole": (safetensors({"a": ENTRY, "b": {**ENTRY, "data_offsets": [20, 36]}}, bytes(36)), "starts at 20"),
}


@pytest.mark.parametrize("case", sorted(LIES))
def test_a_lying_safetensors_header_is_refused(tmp_path: Path, case: str) -> None:
    content, text = LIES[case]
    with pytest.raises(ArtifactRefused, match=text) as caught:
        inspect_folder(folder_with(tmp_path, w__safetensors=content), "module", {})
    assert caught.value.reason is Reason.BAD_ARTIFACT


def test_a_good_folder_passes_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    header = {"__metadata__": {"format": "pt"}, "w": ENTRY, "e": {**ENTRY, "shape": [0], "data_offsets": [16, 16]}}
    folder = folder_with(tmp_path, w__safetensors=safetensors(header), notes__md=b"hi", __hidden=b"x")
    (folder / "1_Pooling").mkdir()
    artifact = inspect_folder(folder, "module", {})
    assert [file.name for file in artifact.files] == ["notes.md", "w.safetensors"]
    assert artifact.skipped == (".hidden", "1_Pooling/")
    assert artifact.plain_bytes == sum(file.path.stat().st_size for file in artifact.files)


def test_folders_that_do_not_do(tmp_path: Path) -> None:
    empty = folder_with(tmp_path)
    for folder, text in ((tmp_path / "none", "does not exist"), (empty, "no model files")):
        with pytest.raises(InvalidInput, match=text):
            inspect_folder(folder, "module", {})
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(InvalidInput, match="is a file"):
        inspect_folder(file, "identity", {})
    (empty / "we ird").write_text("x")
    with pytest.raises(InvalidInput, match="plain file name"):
        inspect_folder(empty, "identity", {})


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactRefused, match="0 bytes"):
        inspect_folder(folder_with(tmp_path, w__safetensors=b""), "module", {})


TRANSFORMERS = {"config__json": b"{}", "tokenizer__json": b"{}", "m__safetensors": safetensors()}


def test_a_transformers_folder(tmp_path: Path) -> None:
    assert len(inspect_folder(folder_with(tmp_path, **TRANSFORMERS), "transformers", {}).files) == 3


@pytest.mark.parametrize("missing", sorted(TRANSFORMERS))
def test_transformers_needs_its_files(tmp_path: Path, missing: str) -> None:
    files = {name: content for name, content in TRANSFORMERS.items() if name != missing}
    with pytest.raises(ArtifactRefused, match="lacks"):
        inspect_folder(folder_with(tmp_path, **files), "transformers", {})


@pytest.mark.parametrize("name", ["config__json", "tokenizer_config__json"])
def test_remote_code_is_refused(tmp_path: Path, name: str) -> None:
    files = {**TRANSFORMERS, name: b'{"auto_map": {"AutoModel": "x.Y"}}'}
    with pytest.raises(ArtifactRefused, match="auto_map") as caught:
        inspect_folder(folder_with(tmp_path, **files), "transformers", {})
    assert caught.value.reason is Reason.UNSAFE_FORMAT


def test_trust_remote_code_is_not_an_option(tmp_path: Path) -> None:
    with pytest.raises(ArtifactRefused, match="trust_remote_code"):
        inspect_folder(folder_with(tmp_path, **TRANSFORMERS), "transformers", {"trust_remote_code": "true"})


@pytest.mark.parametrize(("content", "text"), [(b"{", "not JSON"), (b"[1]", "JSON object")])
def test_a_broken_config_is_named(tmp_path: Path, content: bytes, text: str) -> None:
    with pytest.raises(ArtifactRefused, match=text):
        inspect_folder(folder_with(tmp_path, **{**TRANSFORMERS, "config__json": content}), "transformers", {})


def test_identity_needs_no_files(tmp_path: Path) -> None:
    assert inspect_folder(folder_with(tmp_path), "identity", {}).files == ()
