"""Every error that Partywall raises on purpose.

    PartywallError
    ├── InvalidInput          the request can never succeed as it is
    │   └── ArtifactRefused   a file we do not load (pickle, TorchScript, a lying header)
    ├── Unauthenticated       no key, or not a live one
    ├── PermissionDenied      known, but not allowed
    ├── NotFound              absent, or another tenant's
    ├── AlreadyExists         the name is taken
    ├── Conflict              somebody else changed it first
    ├── QuotaExceeded         the caller's own limit
    ├── Overloaded            refused by admission: it could not be served in time
    ├── NotReady              exists, but is not in a state to do this
    ├── Unavailable           nothing was executed; another try may succeed
    ├── DeadlineExceeded      time ran out
    ├── DataLoss              sealed bytes that do not authenticate
    ├── Unsupported           not offered here
    └── InternalError         a defect of ours

`reason` is the machine-readable name, `fields` the data behind the sentence, `retry_after_s` a hint. The gRPC status
of each class is in one table, `partywall.wire.status`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping


class Reason(enum.StrEnum):
    """Machine-readable reasons; stable across versions."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    INVALID_TENSOR = "INVALID_TENSOR"
    MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
    REQUEST_QUARANTINED = "REQUEST_QUARANTINED"
    MODEL_TOO_LARGE = "MODEL_TOO_LARGE"
    UNSAFE_FORMAT = "UNSAFE_FORMAT"
    BAD_ARTIFACT = "BAD_ARTIFACT"
    NO_CREDENTIAL = "NO_CREDENTIAL"
    BAD_CREDENTIAL = "BAD_CREDENTIAL"
    KEY_EXPIRED = "KEY_EXPIRED"
    KEY_REVOKED = "KEY_REVOKED"
    TENANT_SUSPENDED = "TENANT_SUSPENDED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    NOT_FOUND = "NOT_FOUND"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    CONFLICT = "CONFLICT"
    RATE_LIMITED = "RATE_LIMITED"
    TOO_MANY_IN_FLIGHT = "TOO_MANY_IN_FLIGHT"
    MODEL_BYTES_EXCEEDED = "MODEL_BYTES_EXCEEDED"
    DEVICE_MEMORY_EXCEEDED = "DEVICE_MEMORY_EXCEEDED"
    DEADLINE_UNREACHABLE = "DEADLINE_UNREACHABLE"
    QUEUE_FULL = "QUEUE_FULL"
    MODEL_NOT_READY = "MODEL_NOT_READY"
    WRONG_STATE = "WRONG_STATE"
    NO_PLACE = "NO_PLACE"
    NO_REPLICA = "NO_REPLICA"
    WORKER_DIED = "WORKER_DIED"
    AGENT_LOST = "AGENT_LOST"
    DRAINING = "DRAINING"
    UNREACHABLE = "UNREACHABLE"
    STORAGE_FULL = "STORAGE_FULL"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    CANCELLED = "CANCELLED"
    SEAL_BROKEN = "SEAL_BROKEN"
    KEYS_DESTROYED = "KEYS_DESTROYED"
    UNSUPPORTED = "UNSUPPORTED"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    INTERNAL = "INTERNAL"


class PartywallError(Exception):
    """Root of the tree.

    Attributes:
        message: One sentence that names the field and the next step.
        reason: Machine-readable name.
        fields: The data behind the sentence, as text.
        retry_after_s: When another try may succeed, in seconds; None: no hint.
        retryable: Whether the same request may succeed later; nothing was executed then.
    """

    default_reason: Reason = Reason.INTERNAL
    retryable: bool = False

    def __init__(
        self,
        message: str,
        *,
        reason: Reason | None = None,
        fields: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.fields = dict(fields or {})
        self.retry_after_s = retry_after_s


class InvalidInput(PartywallError):
    """The request can never succeed as it is."""

    default_reason = Reason.INVALID_ARGUMENT


class ArtifactRefused(InvalidInput):
    """A model file that is not loaded, by rule or because it is malformed."""

    default_reason = Reason.BAD_ARTIFACT


class Unauthenticated(PartywallError):
    """No API key, or not a live one."""

    default_reason = Reason.BAD_CREDENTIAL


class PermissionDenied(PartywallError):
    """The caller is known and not allowed to do this."""

    default_reason = Reason.PERMISSION_DENIED


class NotFound(PartywallError):
    """Absent, or another tenant's: the two read the same."""

    default_reason = Reason.NOT_FOUND


class AlreadyExists(PartywallError):
    """The name is taken."""

    default_reason = Reason.ALREADY_EXISTS


class Conflict(PartywallError):
    """The row changed between reading and writing; read again and retry."""

    default_reason = Reason.CONFLICT
    retryable = True


class QuotaExceeded(PartywallError):
    """The caller's own limit; retry only with a hint."""

    default_reason = Reason.RATE_LIMITED
    retryable = True


class Overloaded(PartywallError):
    """Refused at admission, unexecuted: it could not have been served in time."""

    default_reason = Reason.DEADLINE_UNREACHABLE
    retryable = True


class NotReady(PartywallError):
    """Exists, but is not in a state to do this."""

    default_reason = Reason.MODEL_NOT_READY


class Unavailable(PartywallError):
    """Not answered by anyone; the request may be sent again."""

    default_reason = Reason.NO_REPLICA
    retryable = True


class DeadlineExceeded(PartywallError):
    """Time ran out."""

    default_reason = Reason.DEADLINE_EXCEEDED


class DataLoss(PartywallError):
    """Sealed bytes that do not authenticate, or whose keys are gone."""

    default_reason = Reason.SEAL_BROKEN


class Unsupported(PartywallError):
    """Not offered here."""

    default_reason = Reason.UNSUPPORTED


class InternalError(PartywallError):
    """A defect of ours; the log has the rest."""

    default_reason = Reason.INTERNAL


_CLASS_BY_REASON: dict[Reason, type[PartywallError]] = {
    **{cls.default_reason: cls for cls in PartywallError.__subclasses__()},
    Reason.BAD_ARTIFACT: ArtifactRefused,
    Reason.UNSAFE_FORMAT: ArtifactRefused,
    Reason.INVALID_TENSOR: InvalidInput,
    Reason.MESSAGE_TOO_LARGE: InvalidInput,
    Reason.REQUEST_QUARANTINED: InvalidInput,
    Reason.MODEL_TOO_LARGE: NotReady,
    Reason.NO_CREDENTIAL: Unauthenticated,
    Reason.KEY_EXPIRED: Unauthenticated,
    Reason.KEY_REVOKED: Unauthenticated,
    Reason.TENANT_SUSPENDED: PermissionDenied,
    Reason.MODEL_NOT_FOUND: NotFound,
    Reason.TOO_MANY_IN_FLIGHT: QuotaExceeded,
    Reason.MODEL_BYTES_EXCEEDED: QuotaExceeded,
    Reason.DEVICE_MEMORY_EXCEEDED: QuotaExceeded,
    Reason.QUEUE_FULL: Overloaded,
    Reason.WRONG_STATE: NotReady,
    Reason.NO_PLACE: NotReady,
    Reason.WORKER_DIED: Unavailable,
    Reason.AGENT_LOST: Unavailable,
    Reason.DRAINING: Unavailable,
    Reason.UNREACHABLE: Unavailable,
    Reason.STORAGE_FULL: Unavailable,
    Reason.STORE_UNAVAILABLE: Unavailable,
    Reason.CANCELLED: DeadlineExceeded,
    Reason.KEYS_DESTROYED: DataLoss,
    Reason.OUT_OF_MEMORY: QuotaExceeded,
}


def error_from_reason(
    reason: str,
    message: str,
    *,
    fields: Mapping[str, str] | None = None,
    retry_after_s: float | None = None,
) -> PartywallError:
    """Builds the typed error for a reason that crossed the wire; an unknown reason becomes `InternalError`."""
    try:
        known = Reason(reason)
    except ValueError:
        return InternalError(message, fields={**(fields or {}), "reason": reason}, retry_after_s=retry_after_s)
    return _CLASS_BY_REASON[known](message, reason=known, fields=fields, retry_after_s=retry_after_s)
