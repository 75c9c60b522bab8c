"""Imports run one way, and the runtime never brings PyTorch."""

import ast
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import hummingbird_edge.runtime as runtime

ROOT = Path(__file__).parent.parent
PACKAGE = "hummingbird_edge."
FORBIDDEN = {
    "runtime": {"export", "quantize", "kernels", "distill", "benchmarks"},
    "kernels": {"export", "quantize", "distill", "benchmarks"},
    "quantize": {"export", "kernels", "distill", "benchmarks"},
    "export": {"distill", "benchmarks"},
}
HEAVY = ("torch", "torchvision", "onnx", "onnx_ir", "onnxscript", "safetensors", "huggingface_hub")
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(runtime.__path__, "hummingbird_edge.runtime.")
    if not module.ispkg
)


def imported(file: Path) -> set[str]:
    """Return the full names of all that a source file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_imports_run_one_way(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    for file in files:
        layers = {
            name.removeprefix(PACKAGE).partition(".")[0]
            for name in imported(file)
            if name.startswith(PACKAGE)
        }
        assert not layers & FORBIDDEN[folder], file


def test_runtime_sources_import_no_toolchain() -> None:
    for file in sorted((ROOT / "runtime").rglob("*.py")):
        assert not {name.partition(".")[0] for name in imported(file)} & set(HEAVY), file


def test_importing_the_runtime_loads_no_toolchain() -> None:
    assert "hummingbird_edge.runtime.pipeline" in MODULES
    program = (
        f"import importlib, sys\n"
        f"for name in {MODULES!r}: importlib.import_module(name)\n"
        f"print(sorted(set(sys.modules) & set({HEAVY!r})))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")


@pytest.mark.skipif(sys.platform == "win32", reason="the home folder is found by HOME")
def test_engines_report_to_nobody(tmp_path: Path) -> None:
    """Their telemetry leaves an identity in the home folder when it starts."""
    pytest.importorskip("openvino")
    program = (
        "from hummingbird_edge import TextToVideo\n"
        "for device in ('cpu', 'openvino'):\n"
        "    TextToVideo.from_bundle(device=device)('a red circle', steps=1)\n"
    )
    home = {k: v for k, v in os.environ.items() if not k.startswith("XDG_")}
    home |= {"HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, env=home)
    found = {path.relative_to(tmp_path).parts[:2] for path in tmp_path.rglob("*")}
    assert found == {(".cache",), (".cache", "hummingbird-edge")}


@pytest.mark.parametrize("command", ["runtime", "export", "distill"])
def test_commands_start_light(command: str) -> None:
    """`--help` is instant: nothing heavy is imported before a command has work to do."""
    program = (
        f"import sys\nimport hummingbird_edge.{command}.cli\n"
        f"heavy = {{'numpy', 'onnxruntime', 'av', 'PIL', 'tokenizers', *{HEAVY!r}}}\n"
        f"print(sorted(set(sys.modules) & heavy))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")
