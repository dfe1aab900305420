"""The operator's and the tenants' first steps, and proof that the models answer sensibly."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import models
import numpy as np
from instance import Instance
from terminal import Terminal

import partywall

ACME, GLOBEX = "acme", "globex"
MODEL_OF = {ACME: "minilm", GLOBEX: "digits"}
IMAGES_PER_REQUEST = 256
GLOBEX_OBJECTIVE_MS = 1000
_ACME_DECLARED_MS = 100
_PAIRS = (
    ("The cat sleeps on the warm windowsill all afternoon.", "A kitten dozed in the sunny window after lunch."),
    ("The stock exchange fell sharply after the announcement.", "Share prices dropped quickly when the news came out."),
    ("The cat sleeps on the warm windowsill all afternoon.", "Share prices dropped quickly when the news came out."),
    ("How do I reset the password of my account?", "The glacier has shrunk by half since 1980."),
)


@dataclass(frozen=True, slots=True)
class Site:
    """An instance with both tenants and their models on it."""

    instance: Instance
    key_files: Mapping[str, Path]

    @property
    def address(self) -> str:
        return self.instance.address

    def key(self, tenant: str) -> str:
        """The tenant's API key."""
        return self.key_files[tenant].read_text()


def move_in(instance: Instance, folder: Path, policy: str, share: int, digits_folder: Path, *, show: bool) -> Site:
    """Creates both tenants, issues their keys and pushes their models."""
    key_files: dict[str, Path] = {}
    for tenant in (ACME, GLOBEX):
        instance.admin("tenants", "create", tenant, show=show)
        instance.admin("quota", "set", tenant, "--trust-policy", policy, show=show)
        issued = cast("dict[str, Any]", instance.admin("keys", "issue", tenant, show=show))
        key_files[tenant] = folder / f"{instance.data_dir.name}-{tenant}.key"
        _write_private(key_files[tenant], issued["key"])
    common = ("--share", str(share), "--promote", "--wait")
    minilm = ("models", "push", MODEL_OF[ACME], str(models.minilm_folder()), "--engine", "transformers")
    brief = _as_flags(models.minilm_options())
    instance.tenant(key_files[ACME], *minilm, *brief, "--slo-ms", str(_ACME_DECLARED_MS), *common, show=show)
    digits = ("models", "push", MODEL_OF[GLOBEX], str(digits_folder), "--engine", "module")
    options = _as_flags(models.digits_options())
    objective = ("--slo-ms", str(GLOBEX_OBJECTIVE_MS))
    instance.tenant(key_files[GLOBEX], *digits, *options, *objective, *common, show=show)
    return Site(instance, key_files)


def _as_flags(options: Mapping[str, str]) -> list[str]:
    return [part for key, value in options.items() for part in ("--option", f"{key}={value}")]


def show_partitions(terminal: Terminal, instance: Instance) -> None:
    """Where the operator finds the models."""
    fleet = cast("dict[str, Any]", instance.admin("fleet", "show"))
    for replica in fleet["replicas"]:
        place = replica["partition"]
        cores = f", cores {','.join(map(str, place['cores']))}" if place["cores"] else ""
        where = f"{place['kind']} on {place['device']}{cores}"
        terminal.say(f"{replica['tenant']}'s {replica['model']}: {replica['state']}, partition {where}")


def show_embeddings(terminal: Terminal, site: Site) -> None:
    """Cosines of related and unrelated pairs of sentences, embedded by the service."""
    texts = [text for pair in _PAIRS for text in pair]
    with partywall.Client(site.address, api_key=site.key(ACME)) as client:
        vectors = client.infer(MODEL_OF[ACME], {"text": texts})["embedding"]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for number, (left, right) in enumerate(_PAIRS):
        cosine = float(unit[2 * number] @ unit[2 * number + 1])
        terminal.say(f"{cosine:5.2f}  {left}  [dim]|[/dim]  {right}")


def digits_accuracy(site: Site, digits: models.Digits) -> float:
    """Share of test images that the service reads right."""
    right = 0
    with partywall.Client(site.address, api_key=site.key(GLOBEX)) as client:
        for start in range(0, len(digits.test_labels), IMAGES_PER_REQUEST):
            rows = slice(start, start + IMAGES_PER_REQUEST)
            scores = client.infer(MODEL_OF[GLOBEX], {"image": digits.test_images[rows]})["scores"]
            right += int((scores.argmax(axis=1) == digits.test_labels[rows]).sum())
    return right / len(digits.test_labels)


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
