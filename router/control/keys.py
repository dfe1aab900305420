"""API keys: `pw_<8 characters>_<43 characters>`, a public id and 256 random bits.

Only SHA-256 of the random part is stored. A slow hash would be wrong here: 256 random bits cannot be guessed, and a
slow check at each request is a way to be flooded. The fixed form lets secret scanners recognise a leaked key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import string
from dataclasses import dataclass

from partywall.domain.tenants import ApiKey

KEY_PREFIX = "pw"
ID_CHARACTERS = 8
SECRET_BYTES = 32
_ALPHABET = string.ascii_lowercase + string.digits
_FORM = re.compile(r"pw_([a-z0-9]{8})_([A-Za-z0-9_-]{43})")
# For ids nobody has: the comparison costs the same and never succeeds, as no 32 bytes of ours are known to hash to it.
_NOBODY = bytes(32)


@dataclass(frozen=True, slots=True, repr=False)
class ParsedKey:
    """A key as it was presented: its public id and its secret bytes (never printed)."""

    id: str
    secret: bytes

    def __repr__(self) -> str:
        return f"ParsedKey(id={self.id!r})"

    @property
    def digest(self) -> bytes:
        """What is stored: SHA-256 of the secret bytes."""
        return hashlib.sha256(self.secret).digest()

    @property
    def text(self) -> str:
        """The key as its owner holds it."""
        tail = base64.urlsafe_b64encode(self.secret).rstrip(b"=").decode("ascii")
        return f"{KEY_PREFIX}_{self.id}_{tail}"


def make_key() -> ParsedKey:
    """A fresh key from the system's randomness."""
    key_id = "".join(secrets.choice(_ALPHABET) for _ in range(ID_CHARACTERS))
    return ParsedKey(key_id, secrets.token_bytes(SECRET_BYTES))


def parse_key(text: str) -> ParsedKey | None:
    """The parts of a key; None where the text does not have a key's form."""
    found = _FORM.fullmatch(text)
    if found is None:
        return None
    secret = base64.urlsafe_b64decode(found[2] + "=")
    parsed = ParsedKey(found[1], secret)
    # 43 characters carry two bits more than 32 bytes: only one spelling of a key is a key.
    return parsed if parsed.text == text else None


def verify_key(presented: ParsedKey, stored: ApiKey | None) -> bool:
    """Whether the presented key is the stored one; takes the same time for an id that nobody has."""
    expected = stored.digest if stored is not None else _NOBODY
    return hmac.compare_digest(presented.digest, expected) and stored is not None
