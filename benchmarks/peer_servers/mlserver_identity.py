"""An identity model for MLServer; loaded by the settings that benchmarks/peers.py writes."""

from __future__ import annotations

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Identity(MLModel):
    """Answers with its inputs."""

    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        outputs = [
            ResponseOutput(name=i.name, shape=i.shape, datatype=i.datatype, data=i.data, parameters=i.parameters)
            for i in payload.inputs
        ]
        return InferenceResponse(model_name=self.name, outputs=outputs)
