"""An identity model on KServe's own server: python kserve_identity.py MODEL HTTP_PORT GRPC_PORT."""

from __future__ import annotations

import sys
from typing import Any

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer


class Identity(Model):
    """Answers with its inputs."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.ready = True

    async def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:
        outputs = []
        for given in payload.inputs:
            output = InferOutput(name=given.name, shape=list(given.shape), datatype=given.datatype)
            output.set_data_from_numpy(given.as_numpy(), binary_data=True)
            outputs.append(output)
        return InferResponse(response_id=payload.id, model_name=self.name, infer_outputs=outputs)


if __name__ == "__main__":
    model, http_port, grpc_port = sys.argv[1:]
    ModelServer(http_port=int(http_port), grpc_port=int(grpc_port), workers=1).start([Identity(model)])
