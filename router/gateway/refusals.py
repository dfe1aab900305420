"""What the request's road says of a model that is not there, or not ready."""

from __future__ import annotations

from partywall.domain.models import VersionState
from partywall.errors import NotFound, NotReady, PartywallError, Reason, Unavailable
from router.gateway.replicas import Route


def model_not_found(name: str) -> NotFound:
    """The one text for an absent model and for another tenant's."""
    return NotFound(
        f"model {name!r} does not exist; `partywall models list` shows yours",
        reason=Reason.MODEL_NOT_FOUND,
        fields={"model": name[:160]},
    )


def not_serving(route: Route) -> PartywallError:
    """Why a version without ready replicas does not serve: coming, failed, or not wanted."""
    version = route.version
    if version.state is VersionState.FAILED:
        return NotReady(
            f"version {version.number} failed to load: {version.reason}; push a corrected version",
            fields={"state": version.state.value},
        )
    if not version.resident:
        return NotReady(
            f"version {version.number} is stored but not resident; load it (partywall models load) or promote it",
            fields={"state": version.state.value},
        )
    detail = f" ({version.reason})" if version.reason else ""
    return Unavailable(
        f"version {version.number} has no ready replica yet{detail}; send the request again",
        fields={"state": version.state.value},
        retry_after_s=1.0,
    )
