"""Which failed loads are tried again."""

from __future__ import annotations

import pytest

from node_agent.replica_life import hopeless
from partywall.errors import (
    ArtifactRefused,
    DataLoss,
    InternalError,
    InvalidInput,
    NotReady,
    PartywallError,
    Unavailable,
    Unsupported,
)


@pytest.mark.parametrize("error", [InvalidInput, ArtifactRefused, DataLoss, Unsupported])
def test_what_lies_in_the_version_itself_is_not_tried_again(error: type[PartywallError]) -> None:
    assert hopeless(error("no"))


@pytest.mark.parametrize("error", [NotReady, Unavailable, InternalError])
def test_what_the_node_may_mend_is(error: type[PartywallError]) -> None:
    assert not hopeless(error("not now"))
