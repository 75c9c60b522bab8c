"""Everything a change must pass: formatter, linter, strict types, tests with warnings as errors.

python check.py                    all of it
python check.py --fast             without what exports, trains or runs benchmarks: under a minute
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent
TYPED = ROOT / ".typed"
# Not `python -m pytest`: it puts this folder first on the path, where `kernels` hides a package
# that other libraries look for.
PYTEST = "import pytest, sys; sys.path.remove(''); sys.exit(pytest.main(sys.argv[1:]))"


def main() -> None:
    """Run every step; stop at the first that fails, but let types and tests run side by side."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="leave out the tests marked slow")
    fast = parser.parse_args().fast
    run("format", "-m", "ruff", "format", "--check", ".")
    run("lint", "-m", "ruff", "check", ".")
    snapshot()
    scripts = (ROOT / "tests", *(ROOT / "docs").glob("*.py"), ROOT / "check.py")
    mypy = (
        "mypy",
        f"--config-file={ROOT / 'pyproject.toml'}",
        f"--cache-dir={ROOT / '.mypy_cache'}",
    )
    types = subprocess.Popen(
        [sys.executable, "-m", *mypy, str(TYPED / "hummingbird_edge"), *scripts],
        cwd=TYPED,  # in ROOT it would find the folder `hummingbird_edge` alone
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        # By file: what a module's tests share is made once. In the order of conftest.py.
        workers = ("--numprocesses=2", "--dist=loadfile", "--no-loadscope-reorder")
        options = (*workers, "--durations=15", *(["-m", "not slow"] if fast else []))
        run("tests", "-c", PYTEST, *options)
    finally:
        print("== types", flush=True)
        print(types.communicate()[0], end="")
    stop_if_failed("types", types.returncode)


def run(title: str, *arguments: str) -> None:
    """Run one step with this interpreter."""
    print(f"== {title}", flush=True)
    stop_if_failed(title, subprocess.run([sys.executable, *arguments], cwd=ROOT).returncode)


def stop_if_failed(title: str, status: int) -> None:
    """End the check with a sentence where a step did not succeed."""
    if status:
        sys.exit(f"check: {title} failed (exit status {status})")


def snapshot() -> None:
    """Copy each package to where its name says it is: mypy does not follow mapped packages."""
    package = TYPED / "hummingbird_edge"
    shutil.rmtree(TYPED, ignore_errors=True)
    for marker in ROOT.glob("*/py.typed"):
        source = marker.parent
        target = package if source.name == package.name else package / source.name
        shutil.copytree(source, target, copy_function=copy_source, dirs_exist_ok=True)


def copy_source(source: str, target: str) -> None:
    """Copy Python alone, with the time of its last change: mypy's cache looks at it."""
    if source.endswith((".py", ".typed")):
        shutil.copy2(source, target)


if __name__ == "__main__":
    main()
