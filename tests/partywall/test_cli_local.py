"""Local commands: doctor, missing extras, options that contradict each other, errors of every kind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from isolation.partition.assembly import JOURNAL
from isolation.partition.journal import Journal, Phase
from partywall.cli.local import checks
from partywall.cli.local.checks import Check, Status
from partywall.cli.local.doctor import report
from partywall.cli.local.extras import extra
from partywall.cli.local.partition_checks import partitions
from partywall.cli.main import run
from partywall.cli.output import OutputFormat, Printer
from partywall.domain.fleet import Partition, PartitionKind
from partywall.errors import InvalidInput, NotReady, Unsupported


def test_doctor_reports_as_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["doctor", "-o", "json", "--data-dir", str(tmp_path / "later")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True
    by_name = {(row["area"], row["check"]): row for row in found["checks"]}
    assert str(len(os.sched_getaffinity(0))) in by_name["cpu", "cores"]["found"]
    assert by_name["library", "grpcio"]["status"] == "ok"
    assert str(tmp_path) in by_name["disk", "data directory"]["found"]
    assert ("sandbox", "no_new_privs") in by_name
    assert all(row["fix"] for row in found["checks"] if row["status"] == "fail")


def test_doctor_fails_with_the_fix(capsys: pytest.CaptureFixture[str]) -> None:
    broken = [Check("library", "grpcio", Status.FAIL, "1.0, needs 1.81", "pip install --upgrade grpcio")]
    with pytest.raises(NotReady, match="library/grpcio") as caught:
        report(Printer(), broken)
    assert caught.value.fields["hint"] == broken[0].fix
    assert "pip install" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("low", "high"), [("1.9", "1.81.1"), ("2.13.0", "2.13.0+cpu"), ("5", "5.0"), ("1.2", "1.2.0rc1")]
)
def test_versions_compare_by_numbers(low: str, high: str) -> None:
    assert checks._numbers(low) <= checks._numbers(high)


def test_core_ranges() -> None:
    assert checks._ranges([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"


def test_a_missing_third_party_module_names_the_extra() -> None:
    with pytest.raises(Unsupported, match=r"install partywall\[router\]") as caught, extra("router"):
        raise ModuleNotFoundError("no", name="sqlalchemy.orm")
    assert caught.value.fields["missing"] == "sqlalchemy"


def test_a_missing_module_of_ours_is_a_defect_and_stays_one() -> None:
    with pytest.raises(ModuleNotFoundError), extra("router"):
        raise ModuleNotFoundError("no", name="router.nothing")


def test_a_light_installation_says_what_to_install(tmp_path: Path) -> None:
    block = (
        "import sys; sys.modules['sqlalchemy'] = None\n"
        "from partywall.cli.main import run\n"
        f"sys.exit(run(['init', '--data-dir', {str(tmp_path / 'D')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "install partywall[router]" in done.stderr
    assert not (tmp_path / "D").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["init"], "--data-dir"),
        (["router"], "--data-dir"),
        (["agent", "--router", "127.0.0.1:1"], "--data-dir"),
        (["agent", "--router", "127.0.0.1:1", "--node", "Bad Node", "--data-dir", "x"], "node"),
        (["agent", "--router", "127.0.0.1:1", "--data-dir", "x", "--cores", "4095"], "core 4095"),
        (["router", "--data-dir", "nowhere"], "partywall init"),
        (["up", "--data-dir", "nowhere"], "partywall init"),
    ],
)
def test_local_commands_name_what_is_missing(
    capsys: pytest.CaptureFixture[str], arguments: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 1
    assert text in capsys.readouterr().err


def tree_that_raises(error: BaseException) -> Callable[[], Any]:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def fail(debug: bool = False) -> None:
        raise error

    return lambda: typer.main.get_command(app)


def test_an_unexpected_error_has_no_traceback_unless_asked(capsys: pytest.CaptureFixture[str]) -> None:
    tree = tree_that_raises(RuntimeError("surprise"))
    assert run([], tree) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert run(["--debug"], tree) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "surprise" in err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), typer.Abort()])
def test_an_interrupt_is_130(error: BaseException) -> None:
    assert run([], tree_that_raises(error)) == 130


@pytest.mark.parametrize(
    "arguments",
    [
        *([], ["tenants"], ["nonsense"], ["tenants", "list", "--nonsense"]),
        *(["router", "--log-level", "loud"], ["router", "--swap-bytes", "much"], ["profile", "m", "--batch", "9" * 20]),
    ],
)
def test_wrong_usage_is_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert run(arguments) == 2
    assert capsys.readouterr().out == ""


def test_usage_errors_are_json_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tenants", "list", "--nonsense", "-o", "json"]) == 2
    assert "--nonsense" in json.loads(capsys.readouterr().err)["error"]["message"]


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("partywall 0.")
    assert run(["models", "push", "--help"]) == 0
    assert "--slo-ms" in capsys.readouterr().out


def test_completion_knows_the_commands() -> None:
    environment = {
        **os.environ,
        "_PARTYWALL_COMPLETE": "complete_bash",
        "COMP_WORDS": "partywall te",
        "COMP_CWORD": "1",
    }
    argv = [sys.executable, "-m", "partywall.cli.main"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert "tenants" in done.stdout


def test_json_rows_are_alone_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    printer = Printer(OutputFormat.JSON)
    printer.note("quiet")
    printer.rows([{"a": 1}], {"a": "A"}, empty="none")
    out, err = capsys.readouterr()
    assert json.loads(out) == [{"a": 1}]
    assert err == ""


def test_markup_in_values_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    printer = Printer()
    row: dict[str, Any] = {"a": "[red]x[/red]", "b": None, "c": True, "d": [1, 2], "e": {"k": 1.5}}
    printer.rows([row], {key: key.upper() for key in row}, empty="none")
    printer.record({"nested": {"k": "[b]"}})
    out = capsys.readouterr().out
    for text in ("[red]x[/red]", "yes", "1, 2", "k=1.5", "nested.k", "[b]"):
        assert text in out


def test_doctor_shows_the_partitions_that_are_given_out(tmp_path: Path) -> None:
    folder = tmp_path / "node" / "partitions"
    folder.mkdir(parents=True)
    journal = Journal(folder / JOURNAL)
    journal.put(Partition("part-1", PartitionKind.CPUSET, "cpu", (0, 1), 50, 1 << 30), Phase.STANDING)
    (found,) = partitions(tmp_path)
    assert (found.name, found.found) == ("part-1", "cpuset of cpu, 50 %, cores 0,1, 1024 MiB: standing")
    (folder / JOURNAL).write_text("{")
    (broken,) = partitions(tmp_path)
    assert broken.status is Status.FAIL
    assert partitions(None) == partitions(tmp_path / "elsewhere") == []


def test_a_module_that_is_not_there_is_refused_at_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typo = str(tmp_path / "architectures.py")
    (tmp_path / "D").mkdir()
    (tmp_path / "D" / "admin.key").touch()
    for command in (["up"], ["agent", "--router", "127.0.0.1:1", "--node", "n"]):
        assert run([*command, "--data-dir", str(tmp_path / "D"), "--modules", typo]) != 0
        assert "--modules" in (said := capsys.readouterr().err)
        assert "is not there" in said


def test_long_values_of_a_record_are_folded_not_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    Printer().record({"fingerprint": "0123456789" * 20})
    out = capsys.readouterr().out
    assert "".join(part for part in out.split() if part.isdigit()) == "0123456789" * 20


def test_a_data_directory_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "D"
    data.mkdir()
    (data / "admin.key").touch()
    (data / "run").write_text("a file where the folder belongs")
    assert run(["up", "--data-dir", str(data)]) != 0
    assert "cannot be written" in capsys.readouterr().err


def test_servers_leave_no_core_dumps() -> None:
    block = (
        "import resource as r; from partywall.cli.local.servers import no_core_dumps\n"
        "hard = r.getrlimit(r.RLIMIT_CORE)[1]; r.setrlimit(r.RLIMIT_CORE, (hard, hard)); no_core_dumps()\n"
        "assert r.getrlimit(r.RLIMIT_CORE) == (0, hard)"
    )
    subprocess.run([sys.executable, "-c", block], timeout=60, check=True)


def test_a_choice_that_is_none_names_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["quota", "set", "acme", "--trust-policy", "nope"]) == 2
    said = capsys.readouterr().err
    assert "'nope' is not one of 'exclusive', 'hardware', 'process', 'shared'" in said
    assert "Value error" not in said


def test_a_message_that_has_its_next_step_gets_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    Printer(color=False).error(InvalidInput("'x' is no thing; `partywall things list` shows those there are"))
    assert capsys.readouterr().err.splitlines()[1] == "(INVALID_ARGUMENT)"
    Printer(color=False).error(InvalidInput("'x' is no thing"))
    assert capsys.readouterr().err.splitlines()[1] == "hint: see partywall --help (INVALID_ARGUMENT)"
