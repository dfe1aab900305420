"""The GPU checks where there is no GPU: a clear end, nothing written, and a complete list of what is pending."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_checks, gpu_live, gpu_profile
from benchmarks.gpu_pending import PREPARED, UNTRIED, pending_page
from isolation.devices.nvml import open_nvml

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results" / "gpu.md"
TOUCHES = re.compile(r"torch\.cuda|import pynvml|CUDA_MPS_|nvidia-cuda-mps|open_nvml\(")


def has_gpu() -> bool:
    library = open_nvml()
    return library is not None and bool(library.gpus())


@pytest.mark.parametrize("script", [gpu_checks, gpu_live, gpu_profile], ids=lambda script: script.__name__)
def test_without_a_gpu_a_check_ends_with_an_error_and_writes_nothing(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    if has_gpu():
        pytest.skip("there is a GPU")
    assert script.main(["--out", str(tmp_path / "found")]) == 2
    assert "nothing was checked and nothing written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_committed_page_is_the_list() -> None:
    if PAGE.with_suffix(".json").exists():
        pytest.skip("the page is of a run on hardware")
    assert PAGE.read_text() == pending_page()


def test_every_module_that_touches_a_gpu_is_on_the_list_and_every_one_listed_is_there() -> None:
    listed = {path for one in (*PREPARED, *UNTRIED) for path in one.code}
    assert [path for path in sorted(listed) if not (ROOT / path).is_file()] == []
    touching = {
        str(path.relative_to(ROOT))
        for package in ("isolation", "node_agent", "partywall", "router")
        for path in (ROOT / package).rglob("*.py")
        if "simulated" not in path.name and TOUCHES.search(path.read_text())
    }
    assert sorted(touching - listed) == []
