"""Property tests: the same examples in every `make test`; random ones, and FUZZ times as many, in `make fuzz`."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings

FUZZ = int(os.environ.get("FUZZ", "0"))
# A busy machine is no finding: nothing here depends on the time that an example takes.
_COMMON: dict[str, Any] = {"deadline": None, "print_blob": True, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("fixed", derandomize=True, **_COMMON)
settings.register_profile("fuzz", derandomize=False, max_examples=100 * max(FUZZ, 1), **_COMMON)
settings.load_profile("fuzz" if FUZZ else "fixed")


def examples(count: int, **more: Any) -> settings:
    """For a test whose examples are dearer than most: `count` of them in `make test`."""
    return settings(max_examples=count * max(FUZZ, 1), **more)
