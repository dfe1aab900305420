"""A second machine joins with a one-time bundle, and trust groups keep tenants on devices of their own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from e2e_instance import ARCHITECTURES, SERVER, Instance, environment, eventually
from mlp_model import MLP_OPTIONS

import partywall

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Instance, str, Path]]:
    """An instance and a join bundle for node n2."""
    made = Instance(tmp_path_factory.mktemp("pair"), ("--drain-s", "2")).start()
    try:
        bundle = made.json("fleet", "token", "n2")["bundle"]
        yield made, bundle, tmp_path_factory.mktemp("n2")
    finally:
        made.stop()


def agent(instance: Instance, home: Path, node: str, bundle: str = "") -> subprocess.Popen[bytes]:
    extra = {"PARTYWALL_AGENT_JOIN": bundle} if bundle else {}
    with (home.parent / f"{home.name}.log").open("ab") as log:
        return subprocess.Popen(
            [*SERVER, "agent", "--data-dir", str(home), "--node", node, "--router", instance.ready["link_address"],
             "--modules", str(ARCHITECTURES)],
            stderr=log,
            env={**environment(), **extra},
        )  # fmt: skip


def online(instance: Instance, node: str) -> bool:
    nodes: list[dict[str, Any]] = instance.json("fleet", "show")["nodes"]
    return any(n["name"] == node and n["state"] == "online" for n in nodes)


def test_join_place_fetch_serve(pair: tuple[Instance, str, Path], mlp_folder: Path) -> None:
    instance, bundle, home = pair
    here = instance.tenant("here")
    instance.push(here, "one", mlp_folder, *MLP_OPTIONS)
    there = instance.tenant("there", "--trust-group", "blue")
    # Another trust group needs another device, and there is none yet: it waits, and says why.
    instance.run("models", "push", "two", str(mlp_folder), "--slo-ms", "100", *MLP_OPTIONS, key=there)
    assert "trust" in eventually(lambda: instance.json("models", "show", "two", key=there)["versions"][0]["reason"])
    process = agent(instance, home, "n2", bundle)
    try:
        eventually(lambda: online(instance, "n2"))
        with partywall.Client(instance.address, api_key=there) as c:
            eventually(lambda: c.ready("two"))
            assert c.infer("two", {"x": np.ones((2, 16), np.float32)})["y"].shape == (2, 4)
        assert instance.replica("two")["node"] == "n2"
        assert instance.replica("one")["node"] == "local"
        # It has no access to the blob store: what it fetched over the link is ciphertext.
        assert list((home / "cache").rglob("model.safetensors"))
    finally:
        process.terminate()
        assert process.wait(30) == 0
    eventually(lambda: not online(instance, "n2"))


def test_a_spent_bundle_enrols_nobody_else(pair: tuple[Instance, str, Path], tmp_path: Path) -> None:
    instance, bundle, _ = pair
    process = agent(instance, tmp_path / "n3", "n2", bundle)
    assert process.wait(60) == 1
    assert not (tmp_path / "n3" / "agent.pem").exists()


def test_an_agent_without_a_certificate_says_what_to_do(pair: tuple[Instance, str, Path], tmp_path: Path) -> None:
    instance, _, _ = pair
    process = agent(instance, tmp_path / "n4", "n4")
    assert process.wait(60) == 1
    assert "fleet token" in (tmp_path / "n4.log").read_text()
