"""Our protocol messages live beside everybody else's, whoever comes first."""

from __future__ import annotations

import subprocess
import sys

import pytest

# What kserve's and mlserver's stubs do: register `inference.*` in protobuf's default pool.
OTHERS = {
    "tritonclient": "import tritonclient.grpc\nfrom tritonclient.grpc import service_pb2 as theirs",
    "another registration": (
        "from google.protobuf import descriptor_pb2, descriptor_pool, message_factory\n"
        "file = descriptor_pb2.FileDescriptorProto(name='grpc_predict_v2.proto', package='inference')\n"
        "file.syntax = 'proto3'\n"
        "m = file.message_type.add(name='ModelInferRequest')\n"
        "m.field.add(name='model_name', number=1, type=9, label=1)\n"
        "descriptor_pool.Default().Add(file)\n"
        "class theirs:\n"
        "    ModelInferRequest = message_factory.GetMessageClass("
        "descriptor_pool.Default().FindMessageTypeByName('inference.ModelInferRequest'))"
    ),
}
OURS = "import partywall\nimport partywall.wire.inference as ours\nimport partywall.client"
CHECK = (
    "assert ours.ModelInferRequest(model_name='a').SerializeToString() "
    "== theirs.ModelInferRequest(model_name='a').SerializeToString()\n"
    "assert ours.ModelInferRequest is not theirs.ModelInferRequest\nprint('both')"
)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("ours_first", [True, False])
def test_either_order(name: str, ours_first: bool) -> None:
    parts = [OURS, OTHERS[name]] if ours_first else [OTHERS[name], OURS]
    code = "\n".join([*parts, CHECK])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "both", done.stderr


def test_the_service_has_the_twenty_methods_that_clients_call() -> None:
    from partywall.wire.inference import SERVICE

    assert len(SERVICE.methods) == 20
