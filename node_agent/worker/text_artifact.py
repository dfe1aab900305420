"""A text model's options and files, parsed from memory: configuration, tokenizer, and the module with its weights."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from transformers.utils import logging as transformers_logging

from isolation.engine import Artifact, int_option
from partywall.errors import ArtifactRefused, InvalidInput, Reason

OPTIONS = frozenset({"task", "max_length", "pooling", "normalize", "dtype"})
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_TASKS = ("embedding", "classification")
_MOST_TOKENS = 1 << 20
# What embedding does not use: it may be absent from the weights or superfluous in them.
_UNUSED_FOR_EMBEDDING = ("pooler.", "cls.", "lm_head.", "classifier.", "qa_outputs.")


@dataclass(frozen=True, slots=True)
class Settings:
    task: str
    max_length: int
    pooling: str
    normalize: bool
    dtype: torch.dtype


def read_settings(
    artifact: Artifact, options: Mapping[str, str], config_json: Mapping[str, Any], config: Any
) -> Settings:
    architectures = config_json.get("architectures") or [""]
    guessed = "classification" if str(architectures[0]).endswith("ForSequenceClassification") else "embedding"
    limit = int(getattr(config, "max_position_embeddings", 0) or 512)
    default = limit
    if "sentence_bert_config.json" in artifact.names:
        default = min(limit, int(json_file(artifact, "sentence_bert_config.json").get("max_seq_length") or limit))
    return Settings(
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


def json_file(artifact: Artifact, name: str) -> dict[str, Any]:
    try:
        value = json.loads(bytes(artifact.read(name)))
    except (ValueError, RecursionError) as failure:
        raise _refused(name, f"is not valid JSON: {failure}") from failure
    if not isinstance(value, dict):
        raise _refused(name, "is not a JSON object")
    return value


def read_config(config_json: Mapping[str, Any]) -> Any:
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


def read_tokenizer(artifact: Artifact, max_length: int) -> Tokenizer:
    data = bytes(artifact.read("tokenizer.json"))
    try:
        tokenizer = Tokenizer.from_buffer(data)
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length)
    except Exception as failure:
        raise _refused("tokenizer.json", f"is not a tokenizer: {_first_line(failure)}") from failure
    return tokenizer


def make_module(config: Any, settings: Settings, weights: dict[str, torch.Tensor]) -> Any:
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
