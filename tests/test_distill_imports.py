"""Training is built in floors: imports run down, from the commands to the worlds."""

import ast
from pathlib import Path

import pytest

DISTILL = Path(__file__).parent.parent / "distill"
PACKAGE = "hummingbird_edge.distill."
FLOORS = (
    "__main__",
    "cli",
    "commands",
    "card quantized",
    "ablation",
    "score",
    "stages cartoons",
    "recipe",
    "train",
    "data",
    "world strip",
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms.split()}


def room_of(file: Path) -> str:
    return file.relative_to(DISTILL).with_suffix("").parts[0]


def rooms_imported(file: Path) -> set[str]:
    """Return the rooms of distill that a file imports from, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {
            name.removeprefix(PACKAGE).partition(".")[0]
            for name in names
            if name.startswith(PACKAGE)
        }
    return found


def test_every_room_has_a_floor() -> None:
    files = DISTILL.rglob("*.py")
    assert {room_of(file) for file in files} - {"__init__"} == set(FLOOR)


@pytest.mark.parametrize("room", FLOOR)
def test_imports_run_down(room: str) -> None:
    for file in DISTILL.rglob("*.py"):
        if room_of(file) == room:
            others = rooms_imported(file) - {room}
            assert all(FLOOR[other] > FLOOR[room] for other in others), (file, others)
