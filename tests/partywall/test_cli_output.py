"""`-o json` before the noun holds for every command there is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from partywall.cli import main
from partywall.cli.main import run


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, with the words that name it."""
    inner = getattr(command, "commands", None)
    if inner is None or getattr(command, "invoke_without_command", False):
        yield path, command
    for name, child in (inner or {}).items():
        yield from leaves(child, (*path, name))


COMMANDS = dict(leaves(main.build()))


def typed(parameter: Any, folder: Path) -> str:
    """A value that the parser takes."""
    if parameter.bare_type is Path:
        return str(folder / "none")
    return "1" if parameter.bare_type in (int, float) else "x"


def least_arguments(command: Any, folder: Path) -> list[str]:
    given: list[str] = []
    for parameter in command.params:
        if parameter.required:
            value = typed(parameter, folder)
            given += [parameter.opts[0], value] if parameter.param_type_name == "option" else [value]
    return given


def test_the_walk_sees_the_tree() -> None:
    assert {("up",), ("models", "push"), ("interference", "evaluate"), ("plan",)} <= set(COMMANDS)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_takes_the_common_options_and_has_no_output_of_its_own(path: tuple[str, ...]) -> None:
    assert "output" in getattr(COMMANDS[path].callback, "common_options", ()), "make it with partywall.cli.options"


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_what_every_command_says_is_json(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run without a server and without files, each answers, or says what is missing; both as JSON."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    code = run(["-o", "json", "--timeout", "1s", "--address", "127.0.0.1:1", "--admin-address", "127.0.0.1:1", *path,
                *least_arguments(COMMANDS[path], tmp_path)])  # fmt: skip
    said = capsys.readouterr()
    if code == 0:
        json.loads(said.out)
    else:
        assert json.loads(said.err)["error"]["message"]
