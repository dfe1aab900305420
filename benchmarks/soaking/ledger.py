"""An architecture that counts how often each request was executed: the truth on the worker's side.

A request is one row of whole numbers: its number (from 1 on), a zero, and a payload. The answer is the number, how
often that number has been executed by now, and the payload with its bits turned over. A row that begins with -1 - b is
a question: the answer's payload is block b of the counts.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from node_agent.worker.modules import Architecture
from partywall.domain.models import TensorSpec

SLOTS = 1 << 22
HEAD = 2


class Ledger(nn.Module):
    """Executions by request number, kept for the life of the worker."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self._counts: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer = x.clone()
        if x.shape[1] < HEAD:
            return answer
        if self._counts is None:
            # Written once, so that the memory is there from the start.
            self._counts = torch.ones(SLOTS, dtype=torch.int16) - 1
        counts, numbers = self._counts, x[:, 0]
        answer[:, HEAD:] = ~x[:, HEAD:]
        executed = numbers[numbers > 0]
        counts.index_add_(0, executed, torch.ones_like(executed, dtype=torch.int16))
        for row in range(len(numbers)):
            number = int(numbers[row])
            if number > 0:
                answer[row, 1] = counts[number]
            elif number < 0:
                width = x.shape[1] - HEAD
                start = (-1 - number) * width
                block = counts[start : start + width]
                answer[row, HEAD:] = 0
                answer[row, HEAD : HEAD + len(block)] = block
        return answer


def _build(options: Mapping[str, str]) -> nn.Module:
    return Ledger()


ARCHITECTURES = {
    "ledger": Architecture(
        build=_build,
        inputs=(TensorSpec("x", "INT64", (-1, -1)),),
        outputs=(TensorSpec("y", "INT64", (-1, -1)),),
        max_batch=32,
    ),
}
