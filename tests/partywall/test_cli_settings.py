"""Flags over environment over file over defaults, and the values people type."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from partywall.cli import values
from partywall.cli.main import run
from partywall.cli.settings import Origin, Setting, Settings, local_address
from partywall.errors import InvalidInput, Unauthenticated

Show = Callable[..., dict[str, tuple[object, str]]]


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Show:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def call(*arguments: str, after: tuple[str, ...] = ()) -> dict[str, tuple[object, str]]:
        assert run([*arguments, "config", "show", "--origin", "-o", "json", *after]) == 0
        return {row["name"]: (row["value"], row["origin"]) for row in json.loads(capsys.readouterr().out)}

    return call


def test_precedence(show: Show, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert show()["address"] == (None, "default")
    (tmp_path / "partywall.toml").write_text('address = "file:1"\ntimeout = "2m"\n')
    assert show()["address"] == ("file:1", "file")
    assert show()["timeout"] == (120.0, "file")
    monkeypatch.setenv("PARTYWALL_ADDRESS", "env:1")
    assert show()["address"] == ("env:1", "environment")
    assert show("--address", "flag:1")["address"] == ("flag:1", "flag")
    assert show("--address", "flag:1", after=("--address", "later:1"))["address"] == ("later:1", "flag")


def test_a_named_file_and_one_in_the_home(show: Show, tmp_path: Path) -> None:
    home = tmp_path / "home" / ".config" / "partywall"
    home.mkdir(parents=True)
    (home / "config.toml").write_text('address = "home:1"')
    assert show()["address"] == ("home:1", "file")
    named = tmp_path / "named.toml"
    named.write_text('address = "named:1"\n[up]\nlisten = "127.0.0.1:9"\n')
    assert show("--config", str(named))["address"] == ("named:1", "file")


def test_secrets_are_not_shown(show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARTYWALL_API_KEY", "hush")
    assert show()["api_key"] == ("(set)", "environment")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('adress = "x"', "'adress'"),
        ('[up]\nlisen = "x"', "'up.lisen'"),
        ('[nonsense]\na = "x"', "'nonsense'"),
        ('api_key = "k"', "secret"),
        ('[tenants.create]\naddress = "x"', "'tenants.create.address'"),
        ("address = ", "cannot be read"),
    ],
)
def test_a_wrong_file_names_the_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, problem: str
) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    assert run(["--config", str(path), "config", "show"]) == 1
    assert problem in capsys.readouterr().err


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--config", str(tmp_path / "none.toml"), "config", "show"]) == 1
    assert "does not exist" in capsys.readouterr().err


def test_the_data_directory_gives_addresses_and_key(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    found = {"public": "0.0.0.0:1", "admin": "[::]:2", "link": "l:3", "metrics": "m:4"}
    (tmp_path / "run" / "addresses.json").write_text(json.dumps(found))
    (tmp_path / "admin.key").write_text("k\n")
    by_flag = Settings().with_flag("data_dir", str(tmp_path))
    assert (by_flag.public_address(), by_flag.admin_address()) == ("127.0.0.1:1", "[::1]:2")
    assert by_flag.admin_key() == "k"
    from_file = Settings({"data_dir": Setting(str(tmp_path), Origin.FILE), "address": Setting("a:1", Origin.FLAG)})
    assert from_file.public_address() == "a:1"
    weaker = Settings({"data_dir": Setting(str(tmp_path), Origin.FLAG), "address": Setting("a:1", Origin.FILE)})
    assert weaker.public_address() == "127.0.0.1:1"
    (tmp_path / "run" / "addresses.json").write_text("{")
    with pytest.raises(InvalidInput, match="restart"):
        by_flag.public_address()


def test_keys_from_files(tmp_path: Path) -> None:
    with pytest.raises(Unauthenticated):
        Settings().admin_key()
    path = tmp_path / "key"
    settings = Settings().with_flag("api_key_file", str(path))
    with pytest.raises(InvalidInput, match="api_key_file"):
        settings.api_key()
    path.write_text(" \n")
    with pytest.raises(InvalidInput, match="empty"):
        settings.api_key()
    path.write_text("abc\n")
    assert settings.api_key() == "abc"
    stronger = Settings(
        {"api_key_file": Setting(str(path), Origin.FILE), "api_key": Setting("env", Origin.ENVIRONMENT)}
    )
    assert stronger.api_key() == "env"


@pytest.mark.parametrize(
    ("text", "size"), [("1024", 1024), ("2GiB", 2 << 30), ("1.5kib", 1536), ("2GB", 2_000_000_000), ("3 M", 3_000_000)]
)
def test_sizes(text: str, size: int) -> None:
    assert values.parse_size(text) == size


def test_sizes_of_messages_have_bounds() -> None:
    assert values.parse_message_size("4KiB") == 4096
    assert values.parse_message_size("512MiB") == 512 << 20
    for bad in ("0", "1KiB", "1GiB", "many"):
        with pytest.raises(typer.BadParameter, match="size"):
            values.parse_message_size(bad)


@pytest.mark.parametrize(("text", "seconds"), [("90d", 7_776_000), ("500ms", 0.5), ("2", 2), ("1.5h", 5400)])
def test_durations(text: str, seconds: float) -> None:
    assert values.parse_duration(text) == seconds


@pytest.mark.parametrize("parse", [values.parse_size, values.parse_duration, values.limit_number, values.limit_count])
def test_numbers_that_no_field_holds_are_refused(parse: Callable[[str], float]) -> None:
    for text in ("9" * 25, "9" * 400):
        with pytest.raises(typer.BadParameter, match=r"too large|not a limit"):
            parse(text)


def test_lifetimes_are_whole_seconds() -> None:
    assert [values.whole_seconds(one) for one in (None, 1.0, 90.4)] == [0, 1, 90]
    for bad in (0.0, 0.4, 1e12):
        with pytest.raises(InvalidInput, match="lifetime"):
            values.whole_seconds(bad)


def test_cores_and_bytes() -> None:
    assert values.parse_cores("0-2,5,1") == (0, 1, 2, 5)
    assert [values.human_bytes(n) for n in (12, 1536, 3 << 30, 5 << 40)] == ["12 B", "1.5 KiB", "3.0 GiB", "5.0 TiB"]
    for bad in ("a", "1-", "", "3-1", "0-99999999999", "²", "0-²"):
        with pytest.raises(typer.BadParameter):
            values.parse_cores(bad)
    with pytest.raises(typer.BadParameter):
        values.parse_option("novalue")


def test_listening_everywhere_is_called_on_loopback() -> None:
    assert local_address("0.0.0.0:5") == "127.0.0.1:5"
    assert local_address("10.0.0.1:5") == "10.0.0.1:5"
