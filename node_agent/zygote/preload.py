"""What the zygote imports before its first fork. Nothing here may start a thread or touch CUDA."""

from __future__ import annotations

import importlib
import os
from collections.abc import MutableMapping, Sequence

# A pool that exists before the fork is dead weight in the child or hangs it.
THREAD_LIMITS = {
    "OMP_NUM_THREADS": "1",
    # OpenMP's threads spin at their barriers unless told otherwise. Beside anything else on its cores a forward pass on
    # two of them then takes forty times as long, and the spinning is noise to neighbours (benchmarks/openmp_wait.py).
    "OMP_WAIT_POLICY": "PASSIVE",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}

ALWAYS = ("numpy", "partywall.wire.inference", "partywall.sealed", "node_agent.worker.main")
FRAMEWORKS = (
    "torch",
    "safetensors.torch",
    "tokenizers",
    "transformers",
    "transformers.models.auto.modeling_auto",
    "transformers.models.bert.modeling_bert",
    "transformers.models.distilbert.modeling_distilbert",
    "transformers.models.roberta.modeling_roberta",
    "transformers.models.mpnet.modeling_mpnet",
    "node_agent.worker.modules",
    "node_agent.worker.transformers",
)


def limit_threads(environment: MutableMapping[str, str]) -> None:
    """Sets what numeric libraries read when they are imported; comes before the first of them."""
    environment.update(THREAD_LIMITS)


def import_all(names: Sequence[str]) -> None:
    """Imports in order. A module that is not installed is an ImportError that names it."""
    for name in names:
        importlib.import_module(name)


def thread_count() -> int:
    """Threads of this process, as the kernel counts them."""
    return len(os.listdir("/proc/self/task"))
