"""What the pages say exists: links lead somewhere, and commands and options are the command line's own."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from partywall.cli.main import build

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("docs", "deploy", "examples")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])
SOURCES = sorted(
    path
    for package in ("partywall", "router", "node_agent", "isolation", "loadgen")
    for path in (ROOT / package).rglob("*.py")
    if "v1" not in path.parts
)
PROGRAMS = sorted(path for folder in ("benchmarks", "examples") for path in (ROOT / folder).rglob("*.py"))
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`(partywall [^`]+)`")


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _anchors(page: Path) -> set[str]:
    """As GitHub makes them: lower case, spaces to dashes, punctuation dropped."""
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    for found in _LINK.finditer(_FENCE.sub("", page.read_text())):
        target, _, anchor = (found[1] or found[2]).partition("#")
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        place = (page.parent / target).resolve() if target else page
        assert place.exists(), f"{target} is not there"
        if anchor:
            assert anchor in _anchors(place), f"{target}#{anchor} is no heading"


def _in_page(page: Path) -> Iterator[str]:
    text = page.read_text()
    for _, block in _FENCE.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            for found in re.finditer(r"(?:^|\$\(|\| )(partywall [^#|)&]*)", line.strip()):
                yield found[1]
    yield from (found[1] for found in _SPAN.finditer(_FENCE.sub("", text)))


def _in_source(path: Path) -> Iterator[str]:
    """Commands that messages name; a value put in stands as a word."""
    tree = ast.parse(path.read_text())
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    # Docstrings speak of groups of commands too.
    inner |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "VALUE" for part in node.values]
            yield from (found[1] for found in _SPAN.finditer("".join(map(str, parts))))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            yield from (found[1] for found in _SPAN.finditer(node.value))


@cache
def _tree() -> Any:
    return build()


def _options(command: Any) -> set[str]:
    return {
        "--help",
        "-h",
        *(name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)),
    }


def _check(text: str, *, runs: bool = False) -> None:
    """`runs`: it must be a whole command, not the name of a group."""
    words = shlex.split(text.replace("[", " ").replace("]", " "))[1:]
    commands = [_tree()]
    while words and hasattr(commands[0], "commands") and not words[0].startswith("-"):
        # `partitions resize|move` stands for both.
        names = words.pop(0).rstrip(".,;:").split("|")
        for name in names:
            assert name in commands[0].commands, f"`{text}`: there is no {name!r}"
        commands = [commands[0].commands[name] for name in names]
    assert not runs or not any(hasattr(command, "commands") for command in commands), f"`{text}` is no whole command"
    for word in words:
        if word.startswith("-") and not re.fullmatch(r"-\d.*", word):
            option = word.partition("=")[0]
            for command in commands:
                assert option in _options(command) | _options(_tree()), f"`{text}`: there is no option {option}"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_commands_of_the_pages_exist(page: Path) -> None:
    for text in _in_page(page):
        _check(text)


def _all_options(command: Any) -> set[str]:
    return _options(command).union(*(_all_options(one) for one in getattr(command, "commands", {}).values()))


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_options_that_pages_name_alone_exist(page: Path) -> None:
    programs = "".join(path.read_text() for path in PROGRAMS)
    for found in re.finditer(r"`(--[a-z][a-z-]+)[^`]*`", _FENCE.sub("", page.read_text())):
        option = found[1]
        assert option in _all_options(_tree()) or f'"{option}"' in programs, f"there is no option {option}"


def test_commands_that_programs_name_exist() -> None:
    found = [span[1] for path in PROGRAMS for span in _SPAN.finditer(path.read_text())]
    found = [text for text in found if text != "partywall ARGUMENTS -o json"]
    assert len(found) > 10
    for text in found:
        _check(text)


def test_commands_that_messages_name_exist() -> None:
    found = [text for path in SOURCES for text in _in_source(path)]
    assert len(found) > 40
    for text in found:
        _check(text, runs=True)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("partywall nonsense", "there is no 'nonsense'"),
        ("partywall models push|pull", "there is no 'pull'"),
        ("partywall models list --nonsense 3", "no option --nonsense"),
        ("partywall fleet", "no whole command"),
    ],
)
def test_what_is_not_there_is_found(text: str, problem: str) -> None:
    with pytest.raises(AssertionError, match=problem):
        _check(text, runs=True)
