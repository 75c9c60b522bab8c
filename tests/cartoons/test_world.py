"""The cartoons world: its catalog and captions, and what is drawn."""

import dataclasses
import io
import random
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from hummingbird_edge.distill.cartoons import autoencoder
from hummingbird_edge.distill.cartoons.recipe import RECIPE
from hummingbird_edge.distill.world.cartoons.catalog import CATALOG, NOUNS, SPRITES_FOLDER
from hummingbird_edge.distill.world.cartoons.curate_sprites import fit_frames, write_sprite
from hummingbird_edge.distill.world.cartoons.render import render
from hummingbird_edge.distill.world.cartoons.shots import (
    DARK_GROUNDS,
    GROUNDS,
    PATHS,
    SCENES,
    SIZES,
    World,
    describe,
    is_held_out,
    words,
)
from hummingbird_edge.distill.world.cartoons.sprites import LOOP, Sprites, read_frames
from hummingbird_edge.runtime.errors import RequestError
from tests.cartoons.conftest import WORLD, generator, shot


def centres(alpha: Tensor) -> Tensor:
    """Return the sprite's centre in each frame of a clip's alpha (K, 1, H, W): (K, 2) x and y."""
    axis = torch.linspace(0, 1, alpha.shape[-1])
    mass = alpha.sum((1, 2, 3))
    x = (alpha.sum((1, 2)) * axis).sum(1) / mass
    y = (alpha.sum((1, 3)) * axis).sum(1) / mass
    return torch.stack((x, y), 1)


def test_the_world_is_as_large_as_promised() -> None:
    assert len(CATALOG) >= 120
    assert len(SCENES) >= 10
    assert len(PATHS) >= 8
    assert len(SIZES) == 2


def test_every_name_means_one_noun() -> None:
    names = [name for noun in CATALOG for name in noun.names]
    assert len(names) == len(set(names))


def test_every_noun_has_its_sprite_and_no_sprite_is_left_over() -> None:
    files = {path.name for path in SPRITES_FOLDER.glob("*.webp")}
    assert files == {noun.file for noun in CATALOG}
    assert sum(path.stat().st_size for path in SPRITES_FOLDER.iterdir()) < 25e6
    assert "Microsoft Corporation" in (SPRITES_FOLDER / "LICENSE").read_text(encoding="utf-8")


def test_a_sprite_moves_and_is_centred() -> None:
    frames = read_frames(SPRITES_FOLDER / NOUNS["cat"].file)
    assert len(frames) == LOOP
    assert {frame.size for frame in frames} == {(128, 128)}
    assert len({frame.tobytes() for frame in frames}) > LOOP // 2


def test_a_sprite_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"cat\.webp cannot be read"):
        Sprites.read(["cat"], folder=tmp_path)


def test_fitted_frames_share_one_box() -> None:
    frames = [Image.new("RGBA", (64, 64)) for _ in range(2)]
    frames[0].paste((255, 0, 0, 255), (10, 10, 20, 20))
    frames[1].paste((0, 0, 255, 255), (30, 10, 40, 20))
    first, second = fit_frames(frames, side=32)
    left, right = first.getchannel("A").getbbox(), second.getchannel("A").getbbox()
    assert left is not None
    assert right is not None
    assert left[2] < right[0]  # what moved inside of the box still does
    assert (left[0] + right[2]) == pytest.approx(32, abs=2)


def test_a_picture_becomes_a_sprite(tmp_path: Path) -> None:
    frames = [Image.new("RGBA", (256, 256)) for _ in range(8)]
    for index, frame in enumerate(frames):
        frame.paste((255, 0, 0, 255), (10 * index, 50, 10 * index + 40, 90))
    picture = io.BytesIO()
    frames[0].save(picture, "WEBP", save_all=True, append_images=frames[1:], duration=42)
    noun = dataclasses.replace(NOUNS["cat"], noun="red box")
    write_sprite(noun, picture.getvalue(), tmp_path)
    loop = read_frames(tmp_path / "red-box.webp")
    boxes = [frame.getchannel("A").point(lambda a: 255 * (a > 127)).getbbox() for frame in loop]
    assert len(boxes) == LOOP
    lefts = [box[0] for box in boxes if box is not None]
    assert lefts == sorted(lefts)
    assert lefts[0] < 6
    assert lefts[-1] > 70


def test_dark_sprites_stay_off_dark_grounds_and_combinations_are_held_out() -> None:
    rng = random.Random(0)
    drawn = [World().draw(rng, held_out) for held_out in (False, True) for _ in range(500)]
    assert not [x for x in drawn if NOUNS[x.noun].is_dark and x.ground in DARK_GROUNDS]
    assert [is_held_out(x) for x in drawn] == [False] * 500 + [True] * 500
    # Held out are combinations: neither size nor wording changes that.
    assert is_held_out(drawn[-1]) == is_held_out(dataclasses.replace(drawn[-1], size="small"))


def test_one_combination_in_ten_is_held_out() -> None:
    shots = [
        shot(noun, path, ground=ground)
        for noun in ("dog", "train")
        for path in PATHS
        for ground in GROUNDS
    ]
    assert 0.05 < sum(map(is_held_out, shots)) / len(shots) < 0.15


def test_captions_use_known_words_and_many_wordings() -> None:
    rng, known = random.Random(0), words()
    for _ in range(500):
        text = describe(World().draw(rng), rng)
        assert set(text.replace(",", "").split()) <= known, text
    x = shot("rabbit", "left", "small", "snow")
    texts = {describe(x, rng) for _ in range(300)}
    assert len(texts) > 50
    assert any("bunny" in text for text in texts)
    assert all(any(f"{word} " in f"{text} " for word in SIZES["small"]) for text in texts)


def test_captions_fit_the_text_encoder(tmp_path: Path) -> None:
    rng, tokenizer = random.Random(0), RECIPE.tokenizer(tmp_path)
    captions = [describe(World().draw(rng), rng) for _ in range(300)]
    assert max(int((tokenizer(text).ids != 0).sum()) for text in captions) <= 26
    assert len({tuple(tokenizer(text).ids) for text in captions}) == len(set(captions))


def test_a_plural_and_a_vowel_get_their_article() -> None:
    rng = random.Random(0)
    texts = [describe(shot("elephant"), rng) for _ in range(200)]
    assert any("an elephant" in text for text in texts)
    assert not any("a elephant" in text for text in texts)
    texts = [describe(shot("music notes"), rng) for _ in range(200)]
    assert not any(f"{article} music" in text for text in texts for article in ("a", "an"))


@pytest.mark.parametrize(
    ("path", "axis", "sign"),
    [("left", 0, -1), ("right", 0, 1), ("rising", 1, -1), ("sinking", 1, 1)],
)
def test_a_path_leads_where_it_says(path: str, axis: int, sign: int, sprites: Sprites) -> None:
    alpha = render([shot(path=path, size="small")], WORLD, sprites, generator()).alpha[0]
    steps = centres(alpha)[:, axis].diff() * sign
    assert (steps > 0).sum() >= WORLD.frames - 3  # the sprite's own motion sways it a little
    assert steps.sum() > 0.3


def test_coming_closer_grows_and_moving_away_shrinks(sprites: Sprites) -> None:
    shots = [shot("rocket", "closer"), shot("rocket", "away")]
    area = render(shots, WORLD, sprites, generator()).alpha.sum((2, 3, 4))
    assert area[0, -1] > 3 * area[0, 0]
    assert area[1, 0] > 3 * area[1, -1]


def test_small_is_smaller_than_large(sprites: Sprites) -> None:
    shots = [shot("rocket", size=size) for size in ("small", "large")]
    area = render(shots, WORLD, sprites, generator()).alpha.sum((1, 2, 3, 4))
    assert 2 * area[0] < area[1]


def test_a_walker_faces_its_way(sprites: Sprites) -> None:
    still = dataclasses.replace(WORLD, jitter=0.0)
    frames = [
        render([shot("cat", path)], still, sprites, generator(), frames=torch.tensor([[at]])).alpha
        for path, at in (("left", 0), ("right", 15))
    ]
    # On the same side of the frame, one is the other's mirror image but for its own motion.
    left, right = frames[0][0, 0, 0], frames[1][0, 0, 0]
    width = left.shape[1] // 2
    assert (left - right).abs().mean() > 0.02
    assert left[:, width:].sum() > left[:, :width].sum()
    assert right[:, width:].sum() > right[:, :width].sum()


def test_a_frozen_sprite_moves_along_its_path_alone(sprites: Sprites) -> None:
    world = dataclasses.replace(WORLD, jitter=0.0)
    clips = render([shot(), shot()], world, sprites, generator(), frozen=[True, False]).frames
    change = clips.diff(dim=1).abs().mean((1, 2, 3, 4))
    assert change[0] == 0
    assert change[1] > 0.005


def test_every_ground_is_drawn_and_none_looks_like_another(sprites: Sprites) -> None:
    shots = [shot("rocket", size="small", ground=ground) for ground in GROUNDS]
    frames = render(
        shots, WORLD, sprites, generator(), frames=torch.zeros(len(shots), 1).long()
    ).frames
    assert frames.min() >= 0
    assert frames.max() <= 1
    looks = nn.functional.adaptive_avg_pool2d(frames[:, 0], 4).flatten(1)
    distance = torch.cdist(looks, looks) + 9 * torch.eye(len(looks))
    assert distance.min() > 0.2


def test_clips_are_a_function_of_their_seed(sprites: Sprites) -> None:
    shots = [shot(path="arc", ground="forest")]
    first, again = (render(shots, WORLD, sprites, generator(3)).frames for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, render(shots, WORLD, sprites, generator(4)).frames)


def test_some_frames_of_a_clip_are_drawn_as_in_the_whole(sprites: Sprites) -> None:
    shots = [shot(path="bouncing", ground="beach")]
    whole = render(shots, WORLD, sprites, generator()).frames
    part = render(shots, WORLD, sprites, generator(), frames=torch.tensor([[2, 9]])).frames
    torch.testing.assert_close(part, whole[:, [2, 9]])


def test_windows_and_whole_frames_draw_the_same(sprites: Sprites) -> None:
    shots = [shot("cat", "arc"), shot("rocket", "closer", ground="street"), shot("spider", "left")]
    one, other = (
        render(shots, WORLD, sprites, generator(), in_windows=in_windows)
        for in_windows in (True, False)
    )
    torch.testing.assert_close(one.frames, other.frames, atol=1e-4, rtol=0)
    torch.testing.assert_close(one.alpha, other.alpha, atol=1e-4, rtol=0)


def test_a_crop_holds_the_sprite(sprites: Sprites) -> None:
    drawn = autoencoder.sample_frames(WORLD, sprites, 8, generator())
    frames, alpha = drawn.frames.flatten(0, 1), drawn.alpha.flatten(0, 1)
    _, cut = autoencoder.crop_around(frames, alpha, 32, generator())
    assert cut.shape == (8, 1, 32, 32)
    assert (cut.mean((1, 2, 3)) > alpha.mean((1, 2, 3))).all()
