"""The identity engine: answers with its inputs. For benchmarks and for trying the road without a model."""

from __future__ import annotations

from collections.abc import Mapping

from isolation.engine import Array, Artifact, Moved, check_options
from partywall.domain.models import Signature


class IdentityModel:
    """Any tensors in, the same tensors out."""

    signature = Signature(open=True)

    def __init__(self, memory_bytes: int) -> None:
        self.memory_bytes = memory_bytes

    def run(self, inputs: Mapping[str, Array], rows: int) -> Mapping[str, Array]:
        return inputs

    def park(self) -> Moved:
        """As `isolation.engine.Parkable`: it holds nothing, on any device."""
        return Moved()

    def wake(self) -> Moved:
        return Moved()

    def discard(self) -> None:
        return


class IdentityEngine:
    """Takes no options; files are allowed and only counted."""

    name = "identity"

    def load(self, artifact: Artifact, options: Mapping[str, str], max_batch: int) -> IdentityModel:
        check_options(self.name, options, frozenset())
        return IdentityModel(sum(artifact.size_bytes(name) for name in artifact.names))
