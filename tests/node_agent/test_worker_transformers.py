from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load, save
from worker_support import MINILM, minilm_files, text_array

from isolation.engine import MemoryArtifact
from node_agent.worker.transformers import TransformersEngine
from partywall.domain.fleet import DeviceKind
from partywall.errors import ArtifactRefused, InvalidInput, Reason

ENGINE = TransformersEngine(DeviceKind.CPU)
SENTENCES = ("A cat sits on the mat.", "A kitten rests on a rug.", "Interest rates rose again, the central bank said.")


@cache
def minilm() -> Any:
    return ENGINE.load(MemoryArtifact(minilm_files()), {}, 0)


@cache
def reference() -> Any:
    return transformers.AutoModel.from_pretrained(MINILM), transformers.AutoTokenizer.from_pretrained(MINILM)


def expected(texts: tuple[str, ...]) -> np.ndarray[Any, Any]:
    """Mean pooling and L2 norm, computed with the library's own loader and tokenizer."""
    model, tokenizer = reference()
    tokens = tokenizer(list(texts), padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**tokens).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(-1)
    pooled = (hidden * mask).sum(1) / mask.sum(1)
    found: np.ndarray[Any, Any] = torch.nn.functional.normalize(pooled, dim=1).numpy()
    return found


@pytest.mark.parametrize("texts", [SENTENCES, SENTENCES[:1], ("",), ("word " * 400, "short")])
def test_embeddings_equal_the_library(texts: tuple[str, ...]) -> None:
    found = minilm().run({"text": text_array(*texts)}, len(texts))["embedding"]
    assert found.shape == (len(texts), 384)
    assert np.allclose(found, expected(texts), atol=2e-5)


def test_meaning_is_near_meaning() -> None:
    cat, kitten, bank = minilm().run({"text": text_array(*SENTENCES)}, 3)["embedding"]
    assert cat @ kitten > 0.5 > 0.2 > cat @ bank


def test_signature_is_what_it_is() -> None:
    signature = minilm().signature
    assert [(t.name, t.datatype, t.shape) for t in signature.inputs] == [("text", "BYTES", (-1,))]
    assert [(t.name, t.datatype, t.shape) for t in signature.outputs] == [("embedding", "FP32", (-1, 384))]
    assert signature.max_batch == 32


def test_text_that_is_no_text_names_its_row() -> None:
    texts = text_array("fine", "x")
    texts[1] = b"\xff\xfe"
    with pytest.raises(InvalidInput, match="row 1: not UTF-8"):
        minilm().run({"text": texts}, 2)


def tiny_config(**changes: Any) -> dict[str, Any]:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return {"model_type": "bert", "vocab_size": 30522, "max_position_embeddings": 64, **sizes, **changes}


@cache
def tiny_weights(head: bool) -> bytes:
    torch.manual_seed(0)
    fields = tiny_config()
    fields.pop("model_type")
    config = transformers.BertConfig(**fields, num_labels=3)
    kind = transformers.BertForSequenceClassification if head else transformers.BertModel
    return save({name: t.contiguous() for name, t in kind(config).state_dict().items()})


def tiny(config: Any, weights: bytes, **files: bytes) -> MemoryArtifact:
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    base = {
        "config.json": text,
        "model.safetensors": weights,
        "tokenizer.json": (MINILM / "tokenizer.json").read_bytes(),
    }
    return MemoryArtifact({**base, **{name.replace("__", "."): data for name, data in files.items()}})


LABELS = {"0": "bad", "1": "fair", "2": "good"}
CLASSIFIER = tiny_config(architectures=["BertForSequenceClassification"], id2label=LABELS)


def test_classification_gives_logits_and_label() -> None:
    model = ENGINE.load(tiny(CLASSIFIER, tiny_weights(head=True)), {}, 4)
    outputs = model.run({"text": text_array("one", "two words more")}, 2)
    assert outputs["logits"].shape == (2, 3)
    names = [LABELS[str(i)].encode() for i in outputs["logits"].argmax(axis=1)]
    assert outputs["label"].tolist() == names
    assert [t.name for t in model.signature.outputs] == ["logits", "label"]


def test_embedding_from_a_checkpoint_with_a_head() -> None:
    artifact = tiny(CLASSIFIER, tiny_weights(head=True))
    options = {"task": "embedding", "pooling": "cls", "normalize": "false"}
    assert ENGINE.load(artifact, options, 0).signature.outputs[0].shape == (-1, 16)


def test_half_precision_weights_load_as_single() -> None:
    halves = save({name: t.half() for name, t in load(tiny_weights(head=False)).items()})
    model = ENGINE.load(tiny(tiny_config(), halves), {}, 0)
    assert model.run({"text": text_array("x")}, 1)["embedding"].dtype == np.float32


@pytest.mark.parametrize("task", ["embedding", "classification"])
def test_computing_in_bfloat16_takes_half_the_memory_and_answers_nearly_the_same(task: str) -> None:
    artifact = tiny(CLASSIFIER, tiny_weights(head=True))
    text = {"text": text_array("one", "two words more")}
    single = ENGINE.load(artifact, {"task": task}, 0)
    brief = ENGINE.load(artifact, {"task": task, "dtype": "bfloat16"}, 0)
    name = single.signature.outputs[0].name
    expected, given = single.run(text, 2)[name], brief.run(text, 2)[name]
    assert brief.signature == single.signature
    assert given.dtype == np.float32
    assert brief.memory_bytes < 0.6 * single.memory_bytes
    np.testing.assert_allclose(given, expected, atol=0.05)
    assert not np.array_equal(given, expected)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"dtype": "int8"}, "'dtype' must be one of float32, bfloat16, float16"),
        ({"task": "translation"}, "'task' must be one of embedding, classification"),
        ({"max_length": "65"}, "'max_length' must be a whole number from 1 to 64"),
        ({"device": "cuda"}, "'device' is unknown"),
    ],
)
def test_options_are_checked(options: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        ENGINE.load(tiny(tiny_config(), tiny_weights(head=False)), options, 0)


@pytest.mark.parametrize(
    ("artifact", "text"),
    [
        (tiny(b"{", tiny_weights(head=False)), r"'config.json' is not valid JSON"),
        (tiny(b"[]", tiny_weights(head=False)), r"'config.json' is not a JSON object"),
        (tiny({"model_type": "mine"}, tiny_weights(head=False)), r"model_type 'mine' is not an architecture"),
        (tiny({}, tiny_weights(head=False)), r"model_type None is not an architecture"),
        (tiny(tiny_config(hidden_size="x"), tiny_weights(head=False)), r"config.json|does not fit"),
        (tiny(CLASSIFIER, tiny_weights(head=False)), r"lack tensor 'classifier"),
        (tiny(tiny_config(hidden_size=32), tiny_weights(head=False)), r"does not fit config.json"),
        (tiny(tiny_config(), tiny_weights(head=False), tokenizer__json=b"{}"), r"'tokenizer.json' is not a tokenizer"),
        (MemoryArtifact({"config.json": b"{}"}), "config.json|tokenizer.json"),
    ],
)
def test_files_that_do_not_fit_are_named(artifact: MemoryArtifact, text: str) -> None:
    with pytest.raises(ArtifactRefused, match=text):
        ENGINE.load(artifact, {}, 0)


def test_remote_code_is_refused_not_run() -> None:
    config = {"model_type": "mine", "auto_map": {"AutoModel": "modeling_mine.Mine"}}
    with pytest.raises(ArtifactRefused, match="its own code, which is never run") as refused:
        ENGINE.load(tiny(config, tiny_weights(head=False)), {}, 0)
    assert refused.value.reason is Reason.UNSAFE_FORMAT


def test_a_task_that_the_architecture_has_not() -> None:
    config = {"model_type": "clip_vision_model"}
    with pytest.raises(InvalidInput, match="no model for this task"):
        ENGINE.load(tiny(config, tiny_weights(head=False)), {"task": "classification"}, 0)
