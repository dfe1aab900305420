"""What a check saw, and a page of them that is written anew after each: a run that is cut short keeps what it found."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from partywall.errors import PartywallError

WORDS = {True: "pass", False: "**fail**", None: "not available"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was seen, and whether that is what the wall promises. `ok` None: not available here."""

    name: str
    ok: bool | None
    seen: str
    data: dict[str, Any] = field(default_factory=dict)


def guarded(name: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """A check's findings; whatever it raises on the way is one too, and what it found before stays."""
    try:
        yield from check()
    except PartywallError as error:
        yield Finding(name, False, error.message)
    except Exception as failure:
        yield Finding(name, False, f"{type(failure).__name__}: {failure}")


def end_by_signal() -> None:
    """SIGTERM becomes an exit: what stands in `finally` is done, an MPS daemon of ours ends."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


class Report:
    """OUT.json and OUT.md, complete after every `add`. Without `out` findings are only printed.

    Args:
        title: The page's.
        made_by: One sentence: by what, on what.
        out: Path without its ending.
        facts: Goes into OUT.json beside the findings.
        closing: Lines at the page's end.
    """

    def __init__(
        self,
        title: str,
        made_by: str,
        out: Path | None,
        facts: dict[str, Any] | None = None,
        closing: Sequence[str] = (),
    ) -> None:
        self._title = title
        self._made_by = made_by
        self._out = out
        self._facts = facts or {}
        self._closing = tuple(closing)
        self.findings: list[Finding] = []

    def add(self, finding: Finding) -> None:
        self.findings.append(finding)
        print(f"{WORDS[finding.ok]:14}{finding.name}: {finding.seen}", flush=True)
        if self._out is not None:
            self._out.parent.mkdir(parents=True, exist_ok=True)
            self._out.with_suffix(".md").write_text(self.page())
            result = {**self._facts, "findings": [asdict(f) for f in self.findings]}
            self._out.with_suffix(".json").write_text(json.dumps(result, indent=1, default=str) + "\n")

    def page(self) -> str:
        rows = [f"| {f.name} | {WORDS[f.ok]} | {_cell(f.seen)} |" for f in self.findings]
        table = ["| check | result | seen |", "| --- | --- | --- |", *rows, ""]
        return "\n".join([f"# {self._title}", "", self._made_by, "", *table, *self._closing])

    @property
    def status(self) -> int:
        """The exit status: 1 if a check failed, or none was made."""
        return int(not self.findings or any(f.ok is False for f in self.findings))


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())[:600]
