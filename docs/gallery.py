"""Make docs/gallery.md: what the built-in model makes of the prompts that it carries.

python docs/gallery.py
"""

from collections.abc import Iterator
from pathlib import Path

from hummingbird_edge import TextToVideo
from hummingbird_edge.runtime.bundle.bundle import BUILTIN, Bundle

PAGE = Path(__file__).parent / "gallery.md"
PICTURES = PAGE.parent / "pictures" / "gallery"
COLUMNS = 4
SIDE = 160
"""Pixels of a picture's side on the page."""
HEAD = """# Gallery

Made by `python docs/gallery.py`: the prompts that the built-in model carries, each with its number
as the seed, none left out or made twice. `hb-run PROMPT --seed NUMBER --device cpu` makes the same
video on any machine, up to rounding.
"""


def page() -> str:
    """Return the page."""
    image = '<img src="pictures/gallery/{name}" width="{side}" alt="{prompt}"><br>{seed}. {prompt}'
    cells = [
        image.format(name=path.name, side=SIDE, prompt=prompt, seed=seed)
        for seed, prompt, path in entries()
    ]
    rows = [cells[start : start + COLUMNS] for start in range(0, len(cells), COLUMNS)]
    table = [f"| {' | '.join(row)} |" for row in rows]
    table.insert(1, "|---" * COLUMNS + "|")
    return "\n".join([HEAD, *table, ""])


def entries() -> Iterator[tuple[int, str, Path]]:
    """Yield each picture's seed, prompt and path."""
    for seed, prompt in enumerate(Bundle.open(BUILTIN).manifest.prompts, 1):
        yield seed, prompt, PICTURES / f"{seed:02}.webp"


def main() -> None:
    """Make all pictures, and the page."""
    pipeline = TextToVideo.from_bundle(device="cpu")
    PICTURES.mkdir(exist_ok=True)
    for old in PICTURES.glob("*.webp"):
        old.unlink()
    for seed, prompt, path in entries():
        print(pipeline(prompt, seed=seed).save(path))
    PAGE.write_text(page(), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
