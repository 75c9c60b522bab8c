"""Make the sprites of the cartoons world from the packages that hold them; run once.

    for i in 1 2 3 4; do npm pack @lobehub/fluent-emoji-anim-$i@1.0.0; done
    python -m hummingbird_edge.distill.world.cartoons.curate_sprites FOLDER_OF_THE_TARBALLS

The packages hold Microsoft's Fluent Emoji Animated (MIT) as WebP pictures of 256 x 256 pixels,
named by code point. The hand-kept catalog says which of them are used. Each becomes an animated
WebP picture of 16 frames, evenly spaced over its loop, cropped to what any of them paints and
fitted into 128 x 128 pixels. With `--sheet PNG` a labelled contact sheet is written too.
"""

import argparse
import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from hummingbird_edge.distill.world.cartoons.catalog import CATALOG, SPRITES_FOLDER, Noun
from hummingbird_edge.distill.world.cartoons.sprites import FRAME_MS, LOOP, read_frames

__all__ = ["SIDE", "fit_frames", "main", "sample_loop", "write_sprite"]

SIDE = 128
"""Pixels of a sprite's side."""
MARGIN = 3
"""Clear pixels around a sprite, so that interpolation never meets the border."""
MIN_ALPHA = 24
"""Alpha, of 255, above which a pixel counts as painted."""


def pictures(tarballs: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the code point and the WebP file of every picture in the packages."""
    for tarball in sorted(tarballs.glob("lobehub-fluent-emoji-anim-*.tgz")):
        with tarfile.open(tarball, "r:gz") as archive:
            for member in archive:
                file = archive.extractfile(member) if member.name.endswith(".webp") else None
                if file is not None:
                    yield Path(member.name).stem, file.read()


def sample_loop(picture: bytes, frames: int = LOOP) -> list[Image.Image]:
    """Return `frames` RGBA pictures, evenly spaced over the loop of an animated WebP file."""
    with Image.open(io.BytesIO(picture)) as source:
        count = getattr(source, "n_frames", 1)
        sampled = []
        for index in range(frames):
            source.seek(index * count // frames)
            sampled.append(source.convert("RGBA"))
    return sampled


def fit_frames(frames: Sequence[Image.Image], side: int = SIDE) -> list[Image.Image]:
    """Crop all frames to the box that any of them paints, and fit it into a square of `side`."""
    alpha = np.stack([np.asarray(frame)[..., 3] for frame in frames]).max(0) > MIN_ALPHA
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    width, height = box[2] - box[0], box[3] - box[1]
    scale = (side - 2 * MARGIN) / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    corner = ((side - size[0]) // 2, (side - size[1]) // 2)
    fitted = []
    for frame in frames:
        # Premultiplied: the colour of what is transparent must not bleed into the edge.
        part = frame.convert("RGBa").resize(size, Image.Resampling.LANCZOS, box=box)
        canvas = Image.new("RGBa", (side, side))
        canvas.paste(part, corner)
        fitted.append(canvas.convert("RGBA"))
    return fitted


def write_sprite(noun: Noun, picture: bytes, folder: Path) -> int:
    """Write one sprite; returns its size in bytes."""
    first, *others = fit_frames(sample_loop(picture))
    path = folder / noun.file
    first.save(
        path,
        save_all=True,
        append_images=others,
        duration=FRAME_MS,
        loop=0,
        quality=90,
        alpha_quality=100,
        method=6,
    )
    return path.stat().st_size


def write_sheet(nouns: Sequence[Noun], folder: Path, path: Path, frames: int = 8) -> None:
    """Draw `frames` frames of every sprite with its noun and action, three sprites a row."""
    cell, columns = 64, 3
    rows = -(-len(nouns) // columns)
    sheet = Image.new("RGB", (columns * (frames * cell + 8), rows * (cell + 14)), (150, 170, 190))
    draw = ImageDraw.Draw(sheet)
    for index, noun in enumerate(nouns):
        left, top = index % columns * (frames * cell + 8), index // columns * (cell + 14)
        draw.text((left + 2, top + 1), f"{noun.noun}: {noun.action} [{noun.facing}]", fill=0)
        for k, frame in enumerate(read_frames(folder / noun.file)[:: LOOP // frames]):
            small = frame.resize((cell, cell), Image.Resampling.LANCZOS)
            sheet.paste(small, (left + k * cell, top + 13), small)
    sheet.save(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make every sprite of the catalog from the tarballs in a folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tarballs", type=Path, help="folder of the packed packages")
    parser.add_argument("--folder", type=Path, default=SPRITES_FOLDER, help="where the sprites go")
    parser.add_argument("--sheet", type=Path, help="PNG file for a contact sheet")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    wanted = {noun.code: noun for noun in CATALOG}
    total = 0
    for code, picture in pictures(options.tarballs):
        if code in wanted:
            total += write_sprite(wanted.pop(code), picture, options.folder)
    if wanted:
        missing = ", ".join(noun.noun for noun in wanted.values())
        raise SystemExit(f"{options.tarballs} has no picture of {missing}: fetch all four packages")
    if options.sheet is not None:
        write_sheet(CATALOG, options.folder, options.sheet)
    print(f"{len(CATALOG)} sprites, {total / 1e6:.1f} MB, in {options.folder}")


if __name__ == "__main__":
    main()
