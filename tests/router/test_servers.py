"""Addresses as an operator gives them: what does not do is named before a port is opened."""

from __future__ import annotations

import pytest

from partywall.errors import InvalidInput
from router.servers import Address


@pytest.mark.parametrize("text", ["", "8001", ":8001", "host:", "host:x", "host:²", "host:65536", "host:-1"])
def test_bad_addresses_name_the_option(text: str) -> None:
    with pytest.raises(InvalidInput, match="--listen must read host:port"):
        Address.parse(text, "--listen")


def test_addresses() -> None:
    assert Address.parse("[::1]:80", "--listen").text == "[::1]:80"
    assert [Address(host, 1).loopback for host in ("localhost", "127.8.8.8", "::1", "10.0.0.1", "name")] == [
        *(True, True, True),
        *(False, False),
    ]
