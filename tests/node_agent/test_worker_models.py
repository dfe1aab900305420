"""Real models in real workers: the whole road from sealed files to an answer, and no plaintext left behind."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save
from worker_support import infer_request, minilm_files, response_arrays, seal, spawn, text_array, zygote

from node_agent.work import Batch, WorkItem
from node_agent.worker.modules import register
from node_agent.zygote import preload
from partywall.domain.fleet import Partition, PartitionKind
from partywall.errors import ArtifactRefused, InternalError, QuotaExceeded, Reason

EXAMPLES = str(Path(__file__).parents[2] / "examples" / "architectures.py")
# With eight others on the machine the imports alone take half a minute.
WAIT_S = 150.0


def folders(root: Path, *names: str) -> list[Path]:
    made = [root / name for name in names]
    for folder in made:
        folder.mkdir()
    return made


def digits_weights() -> bytes:
    torch.manual_seed(2)
    return save(register([EXAMPLES])["digits_cnn"].build({}).state_dict())


def lying_header() -> bytes:
    header = json.dumps({"0.weight": {"dtype": "F32", "shape": [9], "data_offsets": [0, 1 << 40]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(36)


async def test_two_engines_a_lie_and_a_full_partition(tmp_path: Path) -> None:
    """One zygote for all: its imports are what costs."""
    text, digits, liar = folders(tmp_path, "text", "digits", "liar")
    small = Partition("small", PartitionKind.CPUSET, "cpu0", (0,), 50, 40 << 20)
    async with zygote(preload.FRAMEWORKS) as client, asyncio.timeout(WAIT_S):
        worker = await spawn(client, tmp_path, modules=[EXAMPLES])
        found = await worker.load(seal(text, minilm_files(), "transformers"))
        assert found.memory_bytes > 80 << 20
        assert found.signature.outputs[0].shape == (-1, 384)
        module_options = {"architecture": "digits_cnn"}
        digits_files = {"model.safetensors": digits_weights()}
        await worker.load(seal(digits, digits_files, "module", module_options, handle=2))

        sentences = [infer_request({"text": text_array(t)}, t) for t in ("one", "two words", "three words here")]
        images = infer_request({"image": np.zeros((5, 1, 8, 8), np.float32)})
        embedded, scored = await asyncio.gather(
            worker.submit(Batch(1, [WorkItem(i, s) for i, s in enumerate(sentences)])),
            worker.submit(Batch(2, [WorkItem(9, images)])),
        )
        for result in embedded.results:
            embedding = response_arrays(result.response)["embedding"]
            assert embedding.shape == (1, 384)
            assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-5)
        assert response_arrays(scored.results[0].response)["scores"].shape == (5, 10)

        with pytest.raises(ArtifactRefused, match=r"tensor '0.weight'") as refused:
            await worker.load(seal(liar, {"m.safetensors": lying_header()}, "module", module_options, handle=3))
        assert refused.value.reason is Reason.BAD_ARTIFACT

        tight = await spawn(client, tmp_path, worker_id="tight", partition=small)
        with pytest.raises(QuotaExceeded) as full:
            await tight.load(seal(text, minilm_files(), "transformers"))
        assert full.value.reason is Reason.OUT_OF_MEMORY
        # Its walls hold, the worker lives, and a model that fits is served.
        await tight.load(seal(digits, {}, "identity", handle=4))
        assert (await tight.submit(Batch(4, [WorkItem(1, images)]))).results[0].error is None


async def test_an_operators_module_by_its_importable_name(tmp_path: Path) -> None:
    sealed, code = folders(tmp_path, "sealed", "code")
    (code / "operators_own.py").write_text(
        "from torch import nn\nfrom node_agent.worker.modules import Architecture\n"
        "from partywall.domain.models import TensorSpec\n"
        "ARCHITECTURES = {'one': Architecture(lambda _: nn.Linear(2, 1), (TensorSpec('x', 'FP32', (-1, 2)),), "
        "(TensorSpec('y', 'FP32', (-1, 1)),))}\n"
    )
    files = {"m.safetensors": save({"weight": torch.ones(1, 2), "bias": torch.zeros(1)})}
    environment = {**os.environ, "PYTHONPATH": str(code)}
    async with zygote(("torch",), environment=environment) as client, asyncio.timeout(WAIT_S):
        with_module = await spawn(client, sealed, modules=["operators_own"])
        await with_module.load(seal(sealed, files, "module", {"architecture": "one"}))
        done = await with_module.submit(Batch(1, [WorkItem(1, infer_request({"x": np.ones((3, 2), np.float32)}))]))
        assert response_arrays(done.results[0].response)["y"].tolist() == [[2.0]] * 3
        without = await spawn(client, sealed, worker_id="w2", modules=["no_such_module"])
        with pytest.raises(InternalError, match="no_such_module cannot be imported"):
            await without.load(seal(sealed, files, "module", {"architecture": "one"}))


CANARY_BYTES = 64


def files_with(canary: bytes, since_s: float, *roots: Path) -> list[Path]:
    return [path for root in roots for path in readable_files(root, since_s) if canary in path.read_bytes()]


def readable_files(root: Path, since_s: float) -> Iterator[Path]:
    """Files written since then: older ones cannot hold what was drawn later, and there may be gigabytes of them."""
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink() and os.access(path, os.R_OK):
                seen = path.stat()
                if max(seen.st_mtime, seen.st_ctime) >= since_s:
                    yield path


async def test_a_canary_in_the_weights_is_on_no_disk(tmp_path: Path) -> None:
    canary, since_s = os.urandom(CANARY_BYTES), time.time() - 5.0
    weights = {name: t.clone() for name, t in register([EXAMPLES])["mlp"].build({}).state_dict().items()}
    weights["0.weight"].reshape(-1)[:16] = torch.frombuffer(bytearray(canary), dtype=torch.float32)
    plain = save(weights)
    assert canary in plain
    places = (tmp_path, Path(tempfile.gettempdir()), Path("/dev/shm"), Path("/var/tmp"))  # noqa: S108 - looked at only
    async with zygote(preload.FRAMEWORKS) as client, asyncio.timeout(WAIT_S):
        worker = await spawn(client, tmp_path, modules=[EXAMPLES])
        (sealed,) = folders(tmp_path, "sealed")
        request = seal(sealed, {"model.safetensors": plain}, "module", {"architecture": "mlp"})
        assert not files_with(canary, since_s, *places)
        await worker.load(request)
        assert not files_with(canary, since_s, *places)
        data = infer_request({"x": np.eye(64, dtype=np.float32)})
        done = await worker.submit(Batch(1, [WorkItem(1, data)]))
        assert done.results[0].error is None
        assert not files_with(canary, since_s, *places)
        await worker.unload(1)
    assert not files_with(canary, since_s, *places)
    # The search itself works: it finds what is there.
    (tmp_path / "leak").write_bytes(b"x" + canary)
    assert files_with(canary, since_s, tmp_path) == [tmp_path / "leak"]
