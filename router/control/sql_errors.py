"""What goes wrong in a database, as callers of a store hear it."""

from __future__ import annotations

from sqlalchemy import exc

from partywall.errors import AlreadyExists, Conflict, Reason, Unavailable
from router.control.kinds import KindSpec, Stored

UNIQUE_VIOLATION_SQLSTATE = "23505"


def changed_meanwhile(spec: KindSpec, value: Stored) -> Conflict:
    """What a failed compare-and-set answers, in every store."""
    key = spec.key_of(value)
    return Conflict(
        f"{spec.kind} {key} was changed or removed by somebody else; read it again and retry",
        fields={"kind": spec.kind.value, "key": key},
    )


def integrity_error(failure: exc.IntegrityError) -> AlreadyExists | Conflict:
    """A constraint that was broken."""
    text = str(failure.orig)
    sqlstate = getattr(failure.orig, "sqlstate", None)
    if sqlstate == UNIQUE_VIOLATION_SQLSTATE or text.startswith("UNIQUE constraint failed"):
        return AlreadyExists(f"an object with the same key or name exists already ({text}); choose another")
    return Conflict(f"what it refers to is gone, or still referred to ({text}); read again and retry")


# SQLite's words for a file that no retry mends.
_DAMAGED = ("malformed", "not a database", "file is damaged")


def unavailable(cause: str) -> Unavailable:
    """The database did not answer, or not in time."""
    step = "retry, and check disk space and state.db"
    if any(word in cause for word in _DAMAGED):
        step = "state.db is damaged, restore it from its backup"
    return Unavailable(
        f"the router's state store does not answer ({cause}); nothing was changed as far as is known: {step}",
        reason=Reason.STORE_UNAVAILABLE,
        fields={"cause": cause[:200]},
        retry_after_s=2.0,
    )
