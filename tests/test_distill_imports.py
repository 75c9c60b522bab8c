"""Training is built in floors: imports run down, from the commands to the worlds."""

import ast
from pathlib import Path

import pytest

DISTILL = Path(__file__).parent.parent / "distill"
PACKAGE = "hummingbird_edge.distill."
FLOORS = (
    {"mixed_precision", "evaluation"},
    {"world", "strip"},
    {"data"},
    {"curation"},
    {"train"},
    {"recipe"},
    {"stages", "cartoons"},
    {"score"},
    {"worlds"},
    {"ablation"},
    {"card", "quantized"},
    {"commands"},
    {"cli"},
    {"__main__"},
)
"""The rooms of training: each imports from itself and from earlier floors alone."""
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


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


@pytest.mark.parametrize("name", sorted(FLOOR))
def test_imports_run_down(name: str) -> None:
    for file in DISTILL.rglob("*.py"):
        if room_of(file) == name:
            others = rooms_imported(file) - {name}
            assert all(FLOOR[other] < FLOOR[name] for other in others), (file, others)
