"""The transformers engine: a Hugging Face configuration, a tokenizer.json and safetensors, without remote code.

Nothing is written to a disk and nothing is fetched: the configuration and the tokenizer are parsed from memory, and the
weights become the decrypted tensors themselves.
"""

from __future__ import annotations

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer
from transformers.utils import logging as transformers_logging

from isolation.engine import Array, Artifact, check_options, int_option
from node_agent.worker.tensors import choose_device, module_bytes, to_numpy
from node_agent.worker.weights import load_weights
from partywall.domain.fleet import DeviceKind
from partywall.domain.models import Signature, TensorSpec
from partywall.errors import ArtifactRefused, InvalidInput, Reason

_OPTIONS = frozenset({"task", "max_length", "pooling", "normalize", "dtype"})
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_TASKS = ("embedding", "classification")
_DEFAULT_MAX_BATCH = 32
_MOST_TOKENS = 1 << 20
# What embedding does not use: it may be absent from the weights or superfluous in them.
_UNUSED_FOR_EMBEDDING = ("pooler.", "cls.", "lm_head.", "classifier.", "qa_outputs.")


@dataclass(frozen=True, slots=True)
class _Settings:
    task: str
    max_length: int
    pooling: str
    normalize: bool
    dtype: torch.dtype


class TransformersEngine:
    """Text in, embeddings or labels out. Options: docs/engines.md."""

    name = "transformers"

    def __init__(self, device_kind: DeviceKind) -> None:
        self._device_kind = device_kind

    def load(self, artifact: Artifact, options: Mapping[str, str], max_batch: int) -> _TextModel:
        """Needs config.json, tokenizer.json and one or more .safetensors files."""
        check_options(self.name, options, _OPTIONS)
        config_json = _json_file(artifact, "config.json")
        config = _config(config_json)
        settings = _settings(artifact, options, config_json, config)
        tokenizer = _tokenizer(artifact, settings.max_length)
        module = _module(config, settings, load_weights(artifact))
        device = choose_device(self._device_kind)
        module.eval().requires_grad_(False).to(device)
        kind = _Classifier if settings.task == "classification" else _Embedder
        model = kind(module, tokenizer, settings, device, max_batch or _DEFAULT_MAX_BATCH)
        # Finds out here, not at the first request, that the pieces do not fit; and warms what is made lazily.
        model.run({"text": np.array([b"ready"], dtype=object)}, 1)
        return model


class _TextModel(ABC):
    """What the tasks share: rows of text to padded token ids, and the forward pass."""

    def __init__(
        self, module: Any, tokenizer: Tokenizer, settings: _Settings, device: torch.device, max_batch: int
    ) -> None:
        self._module = module
        self._tokenizer = tokenizer
        self._settings = settings
        self._device = device
        self._pad_id = int(getattr(module.config, "pad_token_id", 0) or 0)
        self.memory_bytes = module_bytes(module)
        self.signature = Signature(
            inputs=(TensorSpec("text", "BYTES", (-1,)),), outputs=self._outputs(), max_batch=max_batch
        )

    @abstractmethod
    def _outputs(self) -> tuple[TensorSpec, ...]:
        """What the task gives."""

    @abstractmethod
    def run(self, inputs: Mapping[str, Array], rows: int) -> Mapping[str, Array]:
        """As of `isolation.engine.LoadedModel`."""

    def _forward(self, texts: Array) -> tuple[Any, torch.Tensor | None]:
        """The module's output and the attention mask, None where every row has the same length."""
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(_strings(texts))]
        lengths = [len(row) for row in ids]
        longest = max(1, max(lengths))
        if min(lengths) == longest:
            return self._module(input_ids=torch.tensor(ids, device=self._device)), None
        padded = torch.tensor([row + [self._pad_id] * (longest - len(row)) for row in ids])
        mask = torch.arange(longest)[None, :] < torch.tensor(lengths)[:, None]
        padded, mask = padded.to(self._device), mask.to(self._device, torch.long)
        return self._module(input_ids=padded, attention_mask=mask), mask


class _Embedder(_TextModel):
    def _outputs(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec("embedding", "FP32", (-1, int(self._module.config.hidden_size))),)

    @torch.inference_mode()
    def run(self, inputs: Mapping[str, Array], rows: int) -> Mapping[str, Array]:
        output, mask = self._forward(inputs["text"])
        pooled = self._pool(output.last_hidden_state.float(), mask)
        if self._settings.normalize:
            pooled = torch.nn.functional.normalize(pooled, dim=1)
        return {"embedding": to_numpy(pooled)}

    def _pool(self, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Mean over the tokens that are not padding, as in Reimers and Gurevych, Sentence-BERT (EMNLP 2019)."""
        if self._settings.pooling == "cls":
            return hidden[:, 0]
        if mask is None:
            return hidden.mean(1)
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


class _Classifier(_TextModel):
    def _outputs(self) -> tuple[TensorSpec, ...]:
        labels = int(self._module.config.num_labels)
        return TensorSpec("logits", "FP32", (-1, labels)), TensorSpec("label", "BYTES", (-1,))

    @torch.inference_mode()
    def run(self, inputs: Mapping[str, Array], rows: int) -> Mapping[str, Array]:
        output, _ = self._forward(inputs["text"])
        logits = to_numpy(output.logits.float())
        names = self._module.config.id2label
        label = np.empty(len(logits), dtype=object)
        label[:] = [str(names[int(best)]).encode() for best in logits.argmax(axis=1)]
        return {"logits": logits, "label": label}


def _strings(texts: Array) -> list[str]:
    strings: list[str] = []
    for row, text in enumerate(texts):
        try:
            strings.append(text.decode())
        except UnicodeDecodeError as failure:
            raise InvalidInput(
                f"input 'text', row {row}: not UTF-8 at byte {failure.start}; encode the text as UTF-8",
                reason=Reason.INVALID_TENSOR,
                fields={"tensor": "text", "row": str(row)},
            ) from failure
    return strings


def _settings(artifact: Artifact, options: Mapping[str, str], config_json: Mapping[str, Any], config: Any) -> _Settings:
    architectures = config_json.get("architectures") or [""]
    guessed = "classification" if str(architectures[0]).endswith("ForSequenceClassification") else "embedding"
    limit = int(getattr(config, "max_position_embeddings", 0) or 512)
    default = limit
    if "sentence_bert_config.json" in artifact.names:
        default = min(limit, int(_json_file(artifact, "sentence_bert_config.json").get("max_seq_length") or limit))
    return _Settings(
        task=_choice(options, "task", _TASKS, guessed),
        max_length=int_option(options, "max_length", default, 1, min(limit, _MOST_TOKENS)),
        pooling=_choice(options, "pooling", ("mean", "cls"), "mean"),
        normalize=_choice(options, "normalize", ("true", "false"), "true") == "true",
        dtype=_DTYPES[_choice(options, "dtype", tuple(_DTYPES), "float32")],
    )


def _choice(options: Mapping[str, str], name: str, known: Sequence[str], default: str) -> str:
    value = options.get(name, default)
    if value not in known:
        raise InvalidInput(
            f"option {name!r} must be one of {', '.join(known)}, got {value!r}",
            fields={"field": f"options.{name}", "value": value[:80]},
        )
    return value


def _json_file(artifact: Artifact, name: str) -> dict[str, Any]:
    try:
        value = json.loads(bytes(artifact.read(name)))
    except (ValueError, RecursionError) as failure:
        raise _refused(name, f"is not valid JSON: {failure}") from failure
    if not isinstance(value, dict):
        raise _refused(name, "is not a JSON object")
    return value


def _config(config_json: Mapping[str, Any]) -> Any:
    fields = dict(config_json)
    kind = fields.pop("model_type", None)
    if kind not in transformers.CONFIG_MAPPING:
        remote = "; it brings its own code, which is never run" if "auto_map" in fields else ""
        raise ArtifactRefused(
            f"file 'config.json': model_type {kind!r} is not an architecture of transformers "
            f"{transformers.__version__}{remote}; use a built-in architecture or the module engine",
            reason=Reason.UNSAFE_FORMAT if remote else Reason.BAD_ARTIFACT,
            fields={"file": "config.json", "model_type": str(kind)[:80]},
        )
    # Names of code to import: the built-in classes are the only ones used.
    fields.pop("auto_map", None)
    try:
        return transformers.AutoConfig.for_model(kind, **fields)
    except Exception as failure:
        raise _refused("config.json", f"is refused by transformers: {_first_line(failure)}") from failure


def _tokenizer(artifact: Artifact, max_length: int) -> Tokenizer:
    data = bytes(artifact.read("tokenizer.json"))
    try:
        tokenizer = Tokenizer.from_buffer(data)
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length)
    except Exception as failure:
        raise _refused("tokenizer.json", f"is not a tokenizer: {_first_line(failure)}") from failure
    return tokenizer


def _module(config: Any, settings: _Settings, weights: dict[str, torch.Tensor]) -> Any:
    task = settings.task
    built_in = _model_class(task, config)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        module, report = built_in.from_pretrained(
            None, config=config, state_dict=weights, output_loading_info=True, dtype=settings.dtype
        )
    except Exception as failure:
        raise _refused("*.safetensors", f"does not fit config.json: {_first_line(failure)}") from failure
    ignorable: Callable[[str], bool] = (
        (lambda name: name.startswith(_UNUSED_FOR_EMBEDDING)) if task == "embedding" else (lambda name: False)
    )
    missing = sorted(name for name in report["missing_keys"] if not ignorable(name))
    if missing:
        raise ArtifactRefused(
            f"the weights lack tensor {missing[0]!r} ({len(missing)} missing) that {built_in.__name__} needs; "
            "push the weights that belong to config.json",
            reason=Reason.BAD_ARTIFACT,
            fields={"tensor": missing[0]},
        )
    if task == "embedding" and "pooler" in dict(module.named_children()):
        # Mean pooling does not use it; without it a pass is shorter.
        module.pooler = None
    if "input_ids" not in inspect.signature(module.forward).parameters:
        raise _refused("config.json", f"describes {built_in.__name__}, which does not read text")
    return module


def _model_class(task: str, config: Any) -> Any:
    classes = transformers.MODEL_MAPPING
    if task == "classification":
        classes = transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    try:
        found = classes[type(config)]
    except KeyError as failure:
        raise InvalidInput(
            f"{type(config).__name__} has no model for this task; set the option task, or use the module engine",
            fields={"field": "options.task"},
        ) from failure
    return found[0] if isinstance(found, tuple | list) else found


def _refused(file: str, text: str) -> ArtifactRefused:
    return ArtifactRefused(f"file {file!r} {text}; push the file again", fields={"file": file})


def _first_line(failure: Exception) -> str:
    return (str(failure).strip() or type(failure).__name__).split("\n", 1)[0][:300]
