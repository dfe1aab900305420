"""Partywall's own client: push a model folder if asked to, call it, and handle refusals by their type.

python examples/partywall_client.py --address 127.0.0.1:8001 --key-file acme.key --model minilm [--push DIR]
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

import partywall

SENTENCES = ["A wall that two neighbours share.", "The neighbours' common wall.", "Bread is baked from flour."]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", default="127.0.0.1:8001")
    parser.add_argument("--key-file", type=Path, help="what `partywall keys issue` showed; else PARTYWALL_API_KEY")
    parser.add_argument("--tls-ca", type=Path, help="PEM certificates to trust")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--push", type=Path, metavar="DIR", help="push this folder as a new version first")
    parser.add_argument("--deadline-s", type=float, default=5.0)
    parser.add_argument("sentences", nargs="*", default=SENTENCES)
    arguments = parser.parse_args()

    key = arguments.key_file.read_text() if arguments.key_file else os.environ.get("PARTYWALL_API_KEY", "")
    if not key.strip():
        parser.error("no API key: give --key-file FILE or PARTYWALL_API_KEY")
    with partywall.Client(arguments.address, api_key=key.strip(), tls_ca=arguments.tls_ca) as client:
        try:
            if arguments.push is not None:
                _, version = client.push(
                    arguments.model, arguments.push, engine="transformers", slo_ms=100, promote=True, wait_s=300
                )
                print(f"pushed version {version}; it was sealed before it left this machine")
            result = client.infer(arguments.model, {"text": arguments.sentences}, deadline_s=arguments.deadline_s)
        except partywall.PartywallError as error:
            # `retryable` says that nothing was executed; `retry_after_s` is the server's own hint.
            print(f"{error.reason.value}: {error.message} (retryable: {error.retryable}, hint: {error.retry_after_s})")
            return 1

    embedding = result["embedding"]
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    print(f"{result.model} version {result.version}: embedding {embedding.shape} {embedding.dtype}")
    for sentence, row in zip(arguments.sentences, unit @ unit.T, strict=True):
        print(" ".join(f"{cosine:5.2f}" for cosine in row), sentence)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
