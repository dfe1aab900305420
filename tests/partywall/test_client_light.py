"""The light client stays light, and lives beside tritonclient."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "sqlalchemy", "pynvml", "transformers", "alembic", "router", "node_agent", "isolation", "loadgen")


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("code", ["import partywall; partywall.Client", "import partywall.cli.main as m; m.build()"])
def test_nothing_heavy_is_imported(code: str) -> None:
    found = python(f"{code}\nimport sys; print([n for n in {HEAVY!r} if n in sys.modules])")
    assert found.strip() == "[]"


def test_servers_that_import_the_vocabulary_do_not_pay_for_the_client() -> None:
    code = "import partywall.errors, sys; print([n for n in ('grpc', 'numpy', 'typer') if n in sys.modules])"
    assert python(code).strip() == "[]"


@pytest.mark.parametrize("order", [("partywall", "tritonclient"), ("tritonclient", "partywall")])
def test_beside_tritonclient_in_either_order(order: tuple[str, str]) -> None:
    imports = {
        "partywall": "import partywall; partywall.Client",
        "tritonclient": "import tritonclient.grpc, tritonclient.grpc.aio",
    }
    code = "\n".join(imports[name] for name in order)
    check = "from partywall.wire import inference; print(inference.ModelInferRequest(model_name='m').model_name)"
    assert python(f"{code}\n{check}").strip() == "m"


def test_unknown_names_are_attribute_errors() -> None:
    import partywall

    assert partywall.PartywallError is partywall.errors.PartywallError
    with pytest.raises(AttributeError, match="nonsense"):
        partywall.nonsense  # noqa: B018
