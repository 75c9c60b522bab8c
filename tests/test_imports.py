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
    "runtime": {"serve", "export", "quantize", "kernels", "distill", "benchmarks"},
    "serve": {"export", "quantize", "kernels", "distill", "benchmarks"},
    "kernels": {"serve", "export", "quantize", "distill", "benchmarks"},
    "quantize": {"serve", "export", "distill", "benchmarks"},
    "export": {"serve", "distill", "benchmarks"},
    "distill": {"serve"},
    "benchmarks": {"serve"},
}
FLOORS = (
    {"errors"},
    {"files", "command", "noise", "prompts", "sampler", "tokenizer"},
    {"devices", "media", "denoiser"},
    {"bundle"},
    {"engines"},
    {"placement"},
    {"encoder", "request", "timings"},
    {"result"},
    {"decoder"},
    {"pipeline"},
    {"cli"},
)
"""The rooms of the runtime: each imports from itself and from earlier floors alone."""
MAX_ROOMS = 20
MAX_CLASS_LINES = 200
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


def rooms() -> dict[str, list[Path]]:
    """Return the source files of every file and folder on the runtime's top level."""
    found = {}
    for path in sorted((ROOT / "runtime").iterdir()):
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        if files and files[0].suffix == ".py" and path.name != "__init__.py":
            found[path.stem] = files
    return found


def test_the_runtimes_imports_run_down() -> None:
    assert set(rooms()) == set().union(*FLOORS)
    below: set[str] = set()
    for floor in FLOORS:
        for room in floor:
            for file in rooms()[room]:
                prefix = PACKAGE + "runtime."
                used = {
                    name.removeprefix(prefix).partition(".")[0]
                    for name in imported(file)
                    if name.startswith(prefix)
                }
                assert used <= below | {room}, file
        below |= floor


def test_the_runtime_is_a_house_to_live_in() -> None:
    assert len(rooms()) <= MAX_ROOMS
    for file in (file for files in rooms().values() for file in files):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                assert (node.end_lineno or 0) - node.lineno < MAX_CLASS_LINES, (file, node.name)


def test_the_package_itself_loads_nothing() -> None:
    program = (
        "import sys, pathlib, typing; before = set(sys.modules)\n"
        "import hummingbird_edge\n"
        "print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "['hummingbird_edge']", "")


def test_the_package_is_found_in_a_clone_that_is_not_installed() -> None:
    program = "from hummingbird_edge import TextToVideo; print(TextToVideo.__module__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "hummingbird_edge.runtime.pipeline", done.stderr


def test_runtime_sources_import_no_toolchain() -> None:
    for file in sorted((ROOT / "runtime").rglob("*.py")):
        # One place downloads bundles, where the package for that is installed.
        allowed = {"huggingface_hub"} if file.name == "hub.py" else set[str]()
        used = {name.partition(".")[0] for name in imported(file)}
        assert not used & set(HEAVY) - allowed, file


def test_importing_the_runtime_loads_no_toolchain() -> None:
    assert "hummingbird_edge.runtime.pipeline" in MODULES
    program = (
        f"import importlib, sys\n"
        f"for name in {MODULES!r}: importlib.import_module(name)\n"
        f"print(sorted(set(sys.modules) & set({HEAVY!r})))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the home folder is found by HOME")
def test_engines_report_to_nobody(tmp_path: Path) -> None:
    """Their telemetry leaves an identity in the home folder when it starts."""
    pytest.importorskip("openvino")
    program = (
        "from hummingbird_edge import TextToVideo\n"
        "for device in ('cpu', 'openvino'):\n"
        "    TextToVideo.from_bundle(device=device)('a red circle', steps=1)\n"
    )
    own = ("XDG_", "HUMMINGBIRD_")
    home = {k: v for k, v in os.environ.items() if not k.startswith(own)}
    home |= {"HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, env=home)
    found = {path.relative_to(tmp_path).parts[:2] for path in tmp_path.rglob("*")}
    assert {parts[-1] for parts in found} == {".cache", ".local", "state", "hummingbird-edge"}
    state = tmp_path / ".local" / "state"
    assert [path.name for path in state.iterdir()] == ["hummingbird-edge"]


@pytest.mark.parametrize("command", ["runtime", "export", "distill", "serve"])
def test_commands_start_light(command: str) -> None:
    """`--help` is instant: nothing heavy is imported before a command has work to do."""
    program = (
        f"import sys\nimport hummingbird_edge.{command}.cli\n"
        f"heavy = {{'numpy', 'onnxruntime', 'av', 'PIL', 'imageio', 'tokenizers', *{HEAVY!r}}}\n"
        f"heavy |= {{'fastapi', 'uvicorn', 'mcp'}}\n"
        f"print(sorted(set(sys.modules) & heavy))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")
