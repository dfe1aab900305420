"""Compiles `protos/` when the project is installed: generated code is never committed.

`partywall.v1` becomes ordinary modules with type stubs. The Open Inference Protocol becomes a descriptor set only:
`partywall.wire.inference` loads it into a private pool, so that our package can live beside tritonclient's and
kserve's stubs, which register the same symbols.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

OWN = "partywall/v1"
INFERENCE = "oip/inference.proto"
INFERENCE_OUT = "partywall/wire/inference.binpb"


class ProtoBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Runs protoc into the source tree before files are collected."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        import grpc_tools
        from grpc_tools import protoc

        root = Path(self.root)
        (root / OWN).mkdir(parents=True, exist_ok=True)
        (root / OWN / "__init__.py").write_text('"""Generated from protos/partywall/v1 at install time."""\n')
        well_known = Path(grpc_tools.__file__).parent / "_proto"
        includes = [f"-I{root / 'protos'}", f"-I{well_known}"]
        files = sorted(str(p) for p in (root / "protos" / OWN).glob("*.proto"))
        outputs = [f"--{kind}={root}" for kind in ("python_out", "grpc_python_out", "mypy_out", "mypy_grpc_out")]
        self._run(protoc, [*includes, *outputs, *files])
        out = root / INFERENCE_OUT
        out.parent.mkdir(parents=True, exist_ok=True)
        self._run(
            protoc,
            [*includes, "--include_imports", f"--descriptor_set_out={out}", str(root / "protos" / INFERENCE)],
        )

    def _run(self, protoc: Any, arguments: list[str]) -> None:
        status = protoc.main(["protoc", *arguments])
        if status != 0:
            raise RuntimeError(f"protoc exited with {status}: {' '.join(arguments)}")
