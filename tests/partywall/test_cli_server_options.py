"""`up`, `router` and `agent` take the same options, each declared once; what `up` was given reaches its parts."""

from __future__ import annotations

from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, get_args

import pytest

from partywall.cli import main
from partywall.cli.local import server_options as opt
from partywall.cli.options import arguments_of

TREE = main.build()
ROUTER_ALONE = {"processes", "parent_pid"}
AGENT_ALONE = {"router", "node", "join", "blob_dir", "parent_pid"}
UP_ALONE = {"node", "router_processes"}


def own(command: str) -> dict[str, Any]:
    """A command's options by name, without those that every command has."""
    found = TREE.commands[command]
    common = {*found.callback.common_options, "help"}
    return {p.name: p for p in found.params if p.name not in common}


def declared(parameter: Any) -> tuple[Any, ...]:
    return (*parameter.opts, parameter.default, parameter.help, parameter.metavar, parameter.min, parameter.max)


@pytest.mark.parametrize(("command", "group"), [("router", opt.RouterOptions), ("agent", opt.AgentOptions)])
def test_a_command_has_its_group_and_what_it_alone_has(command: str, group: Any) -> None:
    alone = ROUTER_ALONE if command == "router" else AGENT_ALONE
    assert set(own(command)) == {one.name for one in fields(group)} | alone
    assert not any(one.default is MISSING for one in fields(group))


def test_every_option_that_is_declared_belongs_to_a_command() -> None:
    infos = {name: get_args(one)[1] for name, one in vars(opt).items() if get_args(one)}
    # Of one name alone typer makes the default.
    declared_ones = {name: info.param_decls or (info.default,) for name, info in infos.items()}
    taken = {text for command in ("up", "router", "agent") for one in own(command).values() for text in one.opts}
    assert declared_ones
    assert {name for name, names in declared_ones.items() if not set(names) & taken} == set()


def test_up_has_what_both_have_word_for_word() -> None:
    up, router, agent = own("up"), own("router"), own("agent")
    assert set(up) == (set(router) - ROUTER_ALONE) | (set(agent) - AGENT_ALONE) | UP_ALONE
    for part, alone in ((router, ROUTER_ALONE), (agent, AGENT_ALONE)):
        for name in set(part) - alone:
            assert declared(up[name]) == declared(part[name]), name


def other(group: Any, name: str, default: Any) -> Any:
    """A value that is not the default."""
    special = {
        "placement": opt.PlacingRule.STRICT,
        "queue": opt.QueueOrder.FIFO,
        "front": opt.FrontKind.AIO,
        "log_level": opt.Level.DEBUG,
        "modules": ["/there/one.py", "/there/two.py"],
        "tls_cert": Path("/there/cert.pem"),
        "tls_key": Path("/there/key.pem"),
        "connection_age_s": 7.5,
        "max_message_bytes": 64 << 20,
    }
    if name in special:
        return special[name]
    if isinstance(default, bool):
        return True
    return f"{default}9" if isinstance(default, str) else default + 3


@pytest.mark.parametrize(("command", "group"), [("router", opt.RouterOptions), ("agent", opt.AgentOptions)])
def test_what_up_passes_on_is_what_it_was_given(command: str, group: Any) -> None:
    given = replace(group(), **{one.name: other(group, one.name, one.default) for one in fields(group)})
    line = [*arguments_of(given)]
    if command == "agent":
        line += ["--router", "127.0.0.1:1"]
    context = TREE.commands[command].make_context(command, line, obj=None)
    for one in fields(group):
        assert context.params[one.name] == getattr(given, one.name), one.name


def test_defaults_and_flags_that_are_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    line = arguments_of(opt.RouterOptions(tls_cert=Path("c.pem")), {"listen"})
    assert "--listen" not in line
    assert "--no-metrics" not in line
    assert "--connection-age-s" not in line
    assert line[line.index("--tls-cert") + 1] == str(tmp_path / "c.pem")
    assert line[line.index("--placement") + 1] == "best-effort"
    assert line[line.index("--idle-s") + 1] == "0.0", "said also where it is the default: an environment may say else"
