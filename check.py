"""Everything a change must pass: formatter, linter, strict types, tests with warnings as errors.

python check.py
"""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent
TYPED = ROOT / ".typed"


def run(title: str, *command: str, folder: Path = ROOT) -> None:
    """Run one step; stop the whole check where it fails."""
    print(f"== {title}", flush=True)
    status = subprocess.run([sys.executable, "-m", *command], cwd=folder).returncode
    if status:
        sys.exit(f"check: {title} failed (exit status {status})")


def main() -> None:
    """Run every step in order."""
    run("format", "ruff", "format", "--check", ".")
    run("lint", "ruff", "check", ".")
    # Type checkers do not follow editable installs of mapped packages: they read a snapshot,
    # from within: in this folder they would find `hummingbird_edge/` alone.
    for stale in (TYPED, ROOT / "build"):
        shutil.rmtree(stale, ignore_errors=True)
    run("snapshot", "pip", "install", "--quiet", "--no-deps", "--target", str(TYPED), ".")
    mypy = ("mypy", "--config-file", str(ROOT / "pyproject.toml"))
    run("types", *mypy, "-p", "hummingbird_edge", folder=TYPED)
    scripts = (str(ROOT / "tests"), str(ROOT / "check.py"))
    run("types of scripts and tests", *mypy, *scripts, folder=TYPED)
    print("== tests", flush=True)
    # Not `python -m pytest`: it puts this folder first on the path, where `kernels` hides a
    # package that other libraries look for.
    pytest = "import pytest, sys; sys.path.remove(''); sys.exit(pytest.main())"
    sys.exit(subprocess.run([sys.executable, "-c", pytest], cwd=ROOT).returncode)


if __name__ == "__main__":
    main()
