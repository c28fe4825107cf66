"""The layout's import rules: data flows one way, and the wings do not know each other."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_NOT_IMPORT = {
    "llmemb": {"trainer", "service", "llmemb_client"},
    "trainer": {"service", "llmemb_client"},
    "service": {"trainer", "llmemb_client"},
}
# Each module of the core may import those named before it, never one after.
CORE_ORDER = [
    "errors",
    "files",
    "catalogue",
    "interactions",
    "prompt",
    "base_model",
    "device",
    "forward",
    "dropout",
    "text_tree",
    "tree_attention",
    "fused",
    "fused_int8",
    "encoder",
    "projection",
    "adapter",
    "srs",
    "metrics",
    "signature",
    "bundle",
    "hub",
    "item_embedder",
    "cli",
]
TRAINING_ONLY = {"polars", "sentence_transformers", "datasets", "accelerate"}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", MAY_NOT_IMPORT)
def test_a_wing_never_imports_the_other(package: str) -> None:
    for path in modules(package):
        roots = {name.split(".")[0] for name in imports(path)}
        assert not roots & MAY_NOT_IMPORT[package], path


def test_the_core_imports_only_downwards() -> None:
    for path in modules("llmemb"):
        parts = path.relative_to(ROOT / "llmemb").with_suffix("").parts
        if parts[0] == "__init__":
            continue
        own = CORE_ORDER.index(parts[0])
        for name in imports(path):
            if name.startswith("llmemb."):
                assert CORE_ORDER.index(name.split(".")[1]) <= own, f"{path} imports {name}"


@pytest.mark.parametrize("package", ["llmemb", "service"])
def test_serving_needs_no_training_dependency(package: str) -> None:
    for path in modules(package):
        assert not {name.split(".")[0] for name in imports(path)} & TRAINING_ONLY, path


def test_nothing_unpickles_or_runs_remote_code() -> None:
    for package in MAY_NOT_IMPORT:
        for path in modules(package):
            assert not imports(path) & {"pickle", "cloudpickle", "joblib", "dill", "shelve"}, path
            text = path.read_text()
            assert "torch.load(" not in text, path
            assert "trust_remote_code=True" not in text, path


def test_help_answers_at_once() -> None:
    command = [sys.executable, "-c", "from llmemb.cli import main; main()", "--help"]
    subprocess.run(command, check=True, capture_output=True)  # warms the file cache
    started = time.monotonic()
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert time.monotonic() - started < 2.0  # a loaded CI machine; the promise is half a second
    for name in ("data", "train", "evaluate", "serve"):
        assert name in shown


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from llmemb.cli import build_app; build_app();"
        "print([m for m in ('torch', 'transformers', 'polars', 'fastapi', 'faiss') if m in sys.modules])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert shown.stdout.strip() == "[]"
