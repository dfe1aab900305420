"""A whole run against a server, through the function and through the command line."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from loadgen_fake_server import FakeServer
from rich.console import Console

from loadgen.command import LoadOutcome, run_load_async, write_reports
from loadgen.spec import LoadSpec, parse_tenant
from partywall.cli import main
from partywall.errors import InvalidInput, NotFound, QuotaExceeded

LINES = "one\ntwo\nthree\n"


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "lines.txt"
    path.write_text(LINES)
    return path


async def run(server: FakeServer, *tenants: str, console: Console | None = None, **options: float) -> LoadOutcome:
    spec = LoadSpec(server.address, tuple(parse_tenant(t) for t in tenants), **{"duration_s": 0.5, **options})  # type: ignore[arg-type]
    shown = console or Console(quiet=True)
    return await asyncio.wait_for(run_load_async(spec, shown, live=console is not None), 30)


async def test_two_tenants_with_warmup(server: FakeServer, lines: Path) -> None:
    async def answer(request: object) -> None:
        if request.model_name == "digits":  # type: ignore[attr-defined]
            raise QuotaExceeded("slow down")

    server.answer = answer
    outcome = await run(
        server,
        f"name=acme,key=k1,model=minilm,text={lines},rate=60,arrivals=constant,slo-ms=5000",
        f"name=globex,key=k2,model=digits,text={lines},rate=30,arrivals=constant",
        duration_s=0.5,
        warmup_s=0.2,
    )
    acme, globex = outcome.report.tenants
    assert 29 <= acme.served <= 31
    assert (acme.attainment, acme.failed, acme.unsent) == (1.0, 0, 0)
    assert dict(globex.reasons) == {"RATE_LIMITED": globex.sent}
    assert server.keys == {"Bearer k1", "Bearer k2"}
    assert len(server.seen) > acme.sent + globex.sent, "the warm-up was sent and not counted"
    assert "k1" not in outcome.report.to_json()


async def test_random_tensors_follow_the_servers_declaration(server: FakeServer) -> None:
    server.inputs = [("image", "FP32", (-1, 1, 8, 8))]
    await run(server, "name=a,key=k,model=m,random=auto,batch=4,rate=20")
    (tensor,) = server.seen[0].inputs  # type: ignore[attr-defined]
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("image", "FP32", [4, 1, 8, 8])


async def test_rows_of_a_file(server: FakeServer, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.zeros((8, 3), np.float32))
    await run(server, f"name=a,key=k,model=m,npy={tmp_path / 'rows.npy'},batch=2,rate=20,input=text")
    assert list(server.seen[0].inputs[0].shape) == [2, 3]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("inputs", "tenant", "said"),
    [
        ([("a", "FP32", (1,)), ("b", "FP32", (1,))], "random=auto", "input must name one input of m; it takes: a, b"),
        ([("a", "FP32", (1,))], "random=auto,input=z", "it takes: a"),
        ([], "random=auto", "any .the model is open."),
        ([], "random=auto,input=x", "random needs TYPE:DxD"),
    ],
)
async def test_inputs_must_be_clear(
    server: FakeServer, inputs: list[tuple[str, str, tuple[int, ...]]], tenant: str, said: str
) -> None:
    server.inputs = inputs
    with pytest.raises(InvalidInput, match=said):
        await run(server, f"name=a,key=k,model=m,rate=20,{tenant}")


async def test_a_rate_without_requests_is_refused(server: FakeServer) -> None:
    with pytest.raises(InvalidInput, match="rate gives no request"):
        await run(server, "name=a,key=k,model=m,random=FP32:1,rate=0.0001")


async def test_unknown_models_are_told_before_anything_is_sent(server: FakeServer) -> None:
    server.metadata_error = NotFound("no model m")
    with pytest.raises(NotFound):
        await run(server, "name=a,key=k,model=m,random=auto,rate=20")
    assert server.seen == []


async def test_live_counts_are_drawn_on_a_terminal(server: FakeServer, lines: Path) -> None:
    console = Console(force_terminal=True, width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, ASYNC230
    with console.file:
        await run(server, f"name=acme,key=k,model=m,text={lines},rate=20", console=console, duration_s=1.0)
    assert "under way" in console.export_text()


async def test_reports_are_written(server: FakeServer, lines: Path, tmp_path: Path) -> None:
    outcome = await run(server, f"name=acme,key=k,model=m,text={lines},rate=40,slo-ms=500")
    page, data, columns = write_reports(outcome, tmp_path / "out")
    assert "<svg" in page.read_text()
    assert json.loads(data.read_text())["settings"]["tenants"]["acme"]["rate"] == 40
    with np.load(columns) as read:
        assert len(read["acme.latency_s"]) == outcome.report.tenants[0].planned
    with pytest.raises(InvalidInput, match=r"^--out .* cannot be written"):
        write_reports(outcome, lines)


async def partywall(*arguments: str, interrupt_after: asyncio.Event | None = None) -> tuple[int, str, str]:
    """The real command in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "partywall.cli.main", "load", "run", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        if interrupt_after is not None:
            await asyncio.wait_for(interrupt_after.wait(), 60)
            process.send_signal(signal.SIGINT)
        out, err = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode or 0, out.decode(), err.decode()


async def test_the_command_line(server: FakeServer, lines: Path, tmp_path: Path) -> None:
    tenant = f"name=acme,key=k,model=m,text={lines},rate=40,slo-ms=5000"
    spec = tmp_path / "load.toml"
    spec.write_text(f'address = "{server.address}"\nduration = "0.5s"\n[[tenant]]\n'
                    f'name = "toml"\nkey = "k"\nmodel = "m"\ntext = "{lines}"\nrate = 20\n')  # fmt: skip
    code, out, err = await partywall(
        "--spec", str(spec), "--tenant", tenant, "--out", str(tmp_path / "o"), "-o", "json"
    )
    assert code == 0, err
    report = json.loads(out)
    assert [t["name"] for t in report["tenants"]] == ["toml", "acme"]
    assert report["settings"]["address"] == server.address
    assert "seed 0" in err
    assert (tmp_path / "o" / "report.html").exists()


async def test_the_command_line_as_a_table(server: FakeServer, lines: Path) -> None:
    tenant = f"name=acme,key=k,model=m,text={lines},rate=40,slo-ms=5000"
    code, out, err = await partywall(
        "--address", server.address, "--tenant", tenant, "--duration", "0.5s", "--seed", "3"
    )
    assert code == 0, err
    assert "100.0 %" in out
    assert "seed 3" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--tenant is missing"),
        (["--tenant", "name=a"], "--tenant: model is missing"),
        (["--duration", "0s"], "duration must be above zero"),
        (["--spec", "absent.toml"], "absent.toml: cannot be read"),
    ],
)
def test_errors_of_the_command_line_name_the_field(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["load", "run", "--address", "127.0.0.1:9", *arguments]) == 1
    assert said in capsys.readouterr().err


async def test_ctrl_c_still_reports(server: FakeServer, lines: Path) -> None:
    begun = asyncio.Event()

    async def answer(_: object) -> None:
        begun.set()

    server.answer = answer
    tenant = f"name=acme,key=k,model=m,text={lines},rate=50"
    code, out, err = await partywall(
        "--address", server.address, "--tenant", tenant, "--duration", "10m", "-o", "json", interrupt_after=begun
    )
    assert code == 130, err
    assert json.loads(out)["tenants"][0]["reasons"]["CLIENT_STOPPED"] > 1000
