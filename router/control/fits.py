"""Fits that this router may use: those that come with the release, and the operator's in `DATA/fits` before them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from isolation.interference import fits
from isolation.interference.fits import Fit
from partywall.errors import InvalidInput, NotFound
from router.file_marks import mark_of

log = structlog.get_logger(__name__)
FOLDER = "fits"


@dataclass(frozen=True, slots=True)
class _File:
    """An operator's file as it was last read: its last usable fit, and what is wrong with it now."""

    mark: tuple[int, ...]
    fit: Fit | None
    problem: str = ""


class FitBook:
    """Fits by type of device. `look` takes in files that are new, changed or gone; it reads only those."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shipped = [fits.parse(content, name) for name, content in fits.shipped()]
        self._files: dict[Path, _File] = {}
        self.by_type: Mapping[str, Fit] = {fit.device_type: fit for fit in self._shipped}

    @classmethod
    def open(cls, folder: Path) -> FitBook:
        """With what is in the folder now."""
        book = cls(folder)
        book.look()
        return book

    def __call__(self, device_type: str) -> Fit:
        """The fit of a type of device.

        Raises:
            NotFound: There is none.
        """
        fit = self.by_type.get(device_type)
        if fit is None:
            raise NotFound(f"no fit for {device_type}; make one with `partywall interference fit`")
        return fit

    @property
    def types(self) -> frozenset[str]:
        return frozenset(self.by_type)

    @property
    def problems(self) -> Mapping[str, str]:
        """What is wrong with files, by name."""
        return {str(path): file.problem for path, file in self._files.items() if file.problem}

    def look(self) -> Mapping[str, bool]:
        """Types of device whose fit is another now, each with whether there still is one. Blocks.

        A file that cannot be read or used is logged, and what it held before stays.
        """
        paths = sorted(self._folder.glob("*.json")) if self._folder.is_dir() else []
        files = {}
        for path in paths:
            mark, known = mark_of(path), self._files.get(path)
            files[path] = known if known is not None and known.mark == mark else _read(path, mark, known)
        self._files = files
        before = self.by_type
        fresh = [*self._shipped, *(file.fit for file in files.values() if file.fit is not None)]
        self.by_type = {fit.device_type: fit for fit in fresh}
        changed = {t for t in before.keys() | self.by_type.keys() if before.get(t) is not self.by_type.get(t)}
        return {t: t in self.by_type for t in sorted(changed)}


class FitCollector(Collector):
    """How many of the operator's files cannot be used as they are."""

    def __init__(self, book: FitBook) -> None:
        self._book = book

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily(
            "partywall_fit_files_unusable", "Files in DATA/fits that cannot be used", float(len(self._book.problems))
        )


def _read(path: Path, mark: tuple[int, ...], known: _File | None) -> _File:
    try:
        fit = fits.parse(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError, InvalidInput) as error:
        why = error.message if isinstance(error, InvalidInput) else str(error)
        kept = known.fit if known is not None else None
        log.warning("fit not usable", file=str(path), error=why, before_stays=kept is not None)
        return _File(mark, kept, why)
    log.info("fit read", file=str(path), device_type=fit.device_type)
    return _File(mark, fit)
