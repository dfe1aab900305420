"""Fits that this router may use: those that come with the release, and the operator's in `DATA/fits` before them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from isolation.interference import fits
from isolation.interference.fits import Fit
from partywall.errors import InvalidInput, NotFound

log = structlog.get_logger(__name__)
FOLDER = "fits"


@dataclass(frozen=True, slots=True)
class FitBook:
    """Fits by type of device. Files are read at start: a new one counts from the next start on."""

    by_type: Mapping[str, Fit]

    @classmethod
    def open(cls, folder: Path) -> FitBook:
        """A file that cannot be read is logged and left out: predictions rest on profiles then."""
        texts = [*fits.shipped()]
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
            try:
                texts.append((str(path), path.read_text()))
            except (OSError, UnicodeDecodeError) as error:
                log.warning("fit not readable", file=str(path), error=str(error))
        found: dict[str, Fit] = {}
        for name, content in texts:
            try:
                fit = fits.parse(content, name)
            except InvalidInput as error:
                log.warning("fit not usable", file=name, error=error.message)
                continue
            found[fit.device_type] = fit
        return cls(found)

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
