"""The journal's file: read back as written, and left alone where it is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from authority_node import cores

from isolation.partition.journal import Journal, Phase
from partywall.errors import DataLoss


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 9, "entries": [], "owned": []}', '{"format": 1}'])
def test_a_journal_that_is_none_is_said_and_not_overwritten(tmp_path: Path, text: str) -> None:
    path = tmp_path / "partitions.json"
    path.write_text(text)
    with pytest.raises(DataLoss, match="move it away"):
        Journal(path)
    assert path.read_text() == text


def test_the_journal_reads_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "partitions.json"
    journal = Journal(path)
    journal.put(cores("c", 1, 2), Phase.STANDING)
    journal.claim("GPU-1/9@4")
    journal.remove("nothing")
    again = Journal(path)
    assert again.entries == journal.entries
    assert again.owns("GPU-1/9@4")
    again.disclaim("GPU-1/9@4")
    assert not Journal(path).owns("GPU-1/9@4")
