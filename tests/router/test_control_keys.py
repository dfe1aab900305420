"""API keys: their form, and that only the right one opens."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest

from partywall.domain.tenants import ApiKey
from router.control.keys import ParsedKey, make_key, parse_key, verify_key


def stored(key: ParsedKey) -> ApiKey:
    return ApiKey(key.id, "t1", key.digest, datetime(2026, 1, 1, tzinfo=UTC))


def test_a_key_has_the_form_that_scanners_match() -> None:
    key = make_key()
    assert re.fullmatch(r"pw_[a-z0-9]{8}_[A-Za-z0-9_-]{43}", key.text)
    assert parse_key(key.text) == key
    assert key.text.split("_", 2)[2] not in repr(key), "the secret itself may hold the separator"


def test_two_keys_differ() -> None:
    one, two = make_key(), make_key()
    assert one.id != two.id
    assert one.secret != two.secret


def test_only_the_right_key_verifies() -> None:
    key, other = make_key(), make_key()
    assert verify_key(key, stored(key))
    assert not verify_key(ParsedKey(key.id, other.secret), stored(key))
    assert not verify_key(key, None)


def with_other_spelling(text: str) -> str:
    """The same 32 bytes with other unused bits in the last character."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return text[:-1] + alphabet[alphabet.index(text[-1]) ^ 1]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pw",
        "pw__",
        "pw_abcdefgh_",
        "xx_abcdefgh_" + "A" * 43,
        "pw_ABCDEFGH_" + "A" * 43,
        "pw_abcdefgh_" + "A" * 44,
        "pw_abcdefgh_" + "A" * 42 + "é",
        pytest.param(" " + make_key().text, id="a blank before it"),
        pytest.param(with_other_spelling(make_key().text), id="another spelling"),
    ],
)
def test_what_is_not_a_key_is_none(text: str) -> None:
    assert parse_key(text) is None
