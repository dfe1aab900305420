"""Who may know whom (docs/architecture.md): every import is read, lazy ones too."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("partywall", "router", "node_agent", "isolation", "loadgen")
COMPOSITION_ROOT = ROOT / "partywall" / "cli" / "local"

ALLOWED: dict[str, tuple[str, ...]] = {
    "partywall": (),
    "isolation": ("partywall.domain", "partywall.errors", "partywall.clock", "partywall.sealed"),
    "router": ("partywall", "isolation"),
    "node_agent": ("partywall", "isolation"),
    "loadgen": ("partywall", "router.policy", "node_agent.queueing", "node_agent.settings", "isolation"),
}
NO_GRPC = ("isolation", "node_agent/zygote", "node_agent/worker", "router/policy")


def imports(path: Path) -> set[str]:
    """Absolute names a file imports, wherever in it the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the arrows"
            module = node.module or ""
            found.update(f"{module}.{alias.name}" for alias in node.names)
            found.add(module)
    return found


def forbidden(package: str, names: set[str]) -> set[str]:
    """Imports of ours that the package may not have."""
    ours = {n for n in names if n.split(".")[0] in PACKAGES and n.split(".")[0] != package}
    allowed = ALLOWED[package]
    # `from partywall.domain import x` also shows up as `partywall.domain`, `import partywall` as itself.
    return {n for n in ours if not any(n == a or n.startswith(a + ".") or a.startswith(n + ".") for a in allowed)}


def sources(folder: str) -> list[Path]:
    return [p for p in sorted((ROOT / folder).rglob("*.py")) if "partywall/v1" not in p.as_posix()]


@pytest.mark.parametrize("package", PACKAGES)
def test_arrows(package: str) -> None:
    wrong = {}
    for path in sources(package):
        if path.is_relative_to(COMPOSITION_ROOT):
            continue
        bad = forbidden(package, imports(path))
        if bad:
            wrong[str(path.relative_to(ROOT))] = sorted(bad)
    assert not wrong


@pytest.mark.parametrize("folder", NO_GRPC)
def test_no_grpc_where_it_must_not_be(folder: str) -> None:
    for path in sources(folder):
        names = imports(path)
        assert not any(n == "grpc" or n.startswith(("grpc.", "grpc_")) for n in names), path
        assert "partywall.wire.status" not in names, path


def test_the_composition_root_imports_lazily() -> None:
    """`partywall` must start without the extras: its local commands import the other packages inside functions."""
    for path in sorted(COMPOSITION_ROOT.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = getattr(node, "module", None) or node.names[0].name
                assert module.split(".")[0] not in PACKAGES[1:], f"{path}: {module} at module level"


def test_the_rule_can_fail() -> None:
    assert forbidden("router", {"node_agent.queueing"}) == {"node_agent.queueing"}
    assert forbidden("isolation", {"partywall.wire.convert"}) == {"partywall.wire.convert"}
    assert not forbidden("isolation", {"partywall.domain.fleet", "partywall"})
