"""Plain tritonclient against a sentence-embedding model that Partywall serves: nothing of Partywall is imported.

python examples/triton_client.py --address 127.0.0.1:8001 --key-file acme.key --model minilm
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

SENTENCES = ("A wall that two neighbours share.", "The neighbours' common wall.", "Bread is baked from flour.")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--address", default="127.0.0.1:8001")
    parser.add_argument("--key-file", type=Path, help="what `partywall keys issue` showed; else PARTYWALL_API_KEY")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--timeout-s", type=float, default=10.0)
    parser.add_argument("sentences", nargs="*", default=SENTENCES)
    arguments = parser.parse_args()

    key = os.environ.get("PARTYWALL_API_KEY", "")
    if arguments.key_file is not None:
        key = arguments.key_file.read_text()
    if not key.strip():
        parser.error("no API key: give --key-file FILE or PARTYWALL_API_KEY")
    # The tenant travels as metadata; everything else is the Open Inference Protocol.
    headers = {"authorization": f"Bearer {key.strip()}"}
    text = np.array([sentence.encode() for sentence in arguments.sentences], dtype=object)
    tensor = triton.InferInput("text", list(text.shape), "BYTES")
    tensor.set_data_from_numpy(text)

    limit = {"headers": headers, "client_timeout": arguments.timeout_s}
    try:
        with triton.InferenceServerClient(arguments.address) as client:
            print(f"{arguments.model} ready: {client.is_model_ready(arguments.model, **limit)}")
            answer = client.infer(arguments.model, [tensor], **limit)
    except InferenceServerException as failure:
        raise SystemExit(f"{arguments.address}: {failure.message()} ({failure.status()})") from None

    embedding = answer.as_numpy("embedding")
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    print(f"embedding {embedding.shape} {embedding.dtype}")
    for sentence, row in zip(arguments.sentences, unit @ unit.T, strict=True):
        print(" ".join(f"{cosine:5.2f}" for cosine in row), sentence)


if __name__ == "__main__":
    main()
