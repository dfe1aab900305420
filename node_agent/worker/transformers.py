"""The transformers engine: a Hugging Face configuration, a tokenizer.json and safetensors, without remote code.

Nothing is written to a disk and nothing is fetched: the configuration and the tokenizer are parsed from memory, and the
weights become the decrypted tensors themselves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from isolation.engine import Array, Artifact, check_options
from node_agent.worker.device_memory import DeviceMemory, open_memory
from node_agent.worker.moving import MovableWeights
from node_agent.worker.tensors import module_bytes, to_numpy
from node_agent.worker.text_artifact import (
    OPTIONS,
    Settings,
    json_file,
    make_module,
    read_config,
    read_settings,
    read_tokenizer,
)
from node_agent.worker.weights import load_weights
from partywall.domain.fleet import DeviceKind
from partywall.domain.models import Signature, TensorSpec
from partywall.errors import InvalidInput, Reason

_DEFAULT_MAX_BATCH = 32


class TransformersEngine:
    """Text in, embeddings or labels out. Options: docs/engines.md. `memory`: as of the module engine."""

    name = "transformers"

    def __init__(self, device_kind: DeviceKind, memory: Callable[[], DeviceMemory] | None = None) -> None:
        self._memory = memory or (lambda: open_memory(device_kind))

    def load(self, artifact: Artifact, options: Mapping[str, str], max_batch: int) -> _TextModel:
        """Needs config.json, tokenizer.json and one or more .safetensors files."""
        check_options(self.name, options, OPTIONS)
        config_json = json_file(artifact, "config.json")
        config = read_config(config_json)
        settings = read_settings(artifact, options, config_json, config)
        tokenizer = read_tokenizer(artifact, settings.max_length)
        module = make_module(config, settings, load_weights(artifact))
        memory = self._memory()
        memory.place(module.eval().requires_grad_(False))
        kind = _Classifier if settings.task == "classification" else _Embedder
        model = kind(module, tokenizer, settings, memory, max_batch or _DEFAULT_MAX_BATCH)
        # Finds out here, not at the first request, that the pieces do not fit; and warms what is made lazily.
        model.run({"text": np.array([b"ready"], dtype=object)}, 1)
        return model


class _TextModel(MovableWeights, ABC):
    """What the tasks share: rows of text to padded token ids, and the forward pass."""

    def __init__(
        self, module: Any, tokenizer: Tokenizer, settings: Settings, memory: DeviceMemory, max_batch: int
    ) -> None:
        super().__init__(module, memory)
        self._module = module
        self._tokenizer = tokenizer
        self._settings = settings
        self._device = memory.device
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
