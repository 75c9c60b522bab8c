"""The world of moving shapes: its captions, its held-out split and its pixels."""

import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hummingbird_edge.distill.world.held_out import is_held_out
from hummingbird_edge.distill.world.shapes.captions import (
    describe,
    parse,
    sample_held_out,
    sample_training,
    words,
)
from hummingbird_edge.distill.world.shapes.render import render
from hummingbird_edge.distill.world.shapes.scene import FULL, PAIRS, SMALL, Scene, World, attributes
from hummingbird_edge.runtime.errors import RequestError

ONLY_PAIRS = replace(PAIRS, pairs=1.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def captions(scene: Scene, draws: int = 400) -> set[str]:
    rng = random.Random(0)
    return {describe(scene, rng) for _ in range(draws)}


def drawn(world: World, n: int, seed: int = 0) -> list[Scene]:
    rng = random.Random(seed)
    return [world.draw(rng) for _ in range(n)]


def centres(scene: Scene) -> Tensor:
    """Return the path (T, 2) of the non-black pixels' centre, in pixels."""
    weight = render([scene], FULL, seeded())[0].sum(1)
    ramp = torch.arange(weight.shape[-1], dtype=torch.float32)
    x, y = (weight.sum(1) * ramp).sum(-1), (weight.sum(2) * ramp).sum(-1)
    path: Tensor = torch.stack([x, y], -1) / weight.sum((1, 2))[:, None]
    return path


def moving(motion: str, size: str = "large", shape: str = "square") -> Scene:
    return Scene.of("red", shape, size, motion, "black")


def test_the_full_world_is_as_wide_as_promised() -> None:
    sizes = [len(x) for x in (FULL.colours, FULL.shapes, FULL.motions, FULL.backgrounds)]
    assert sizes == [7, 5, 8, 4]
    assert len(FULL.scenes()) == 7 * (5 * 8 - 1) * 2 * 4  # no circle is seen to spin
    assert max(len(scene.actors) for scene in drawn(PAIRS, 50)) == 2
    assert max(len(scene.actors) for scene in drawn(FULL, 50)) == 1


def test_every_caption_tells_its_scene() -> None:
    rng = random.Random(1)
    for scene in FULL.scenes():
        assert parse(describe(scene, rng)) == scene


@pytest.mark.parametrize("text", ["", "a cat DJ at a party", "a red circle", "red moving right"])
def test_other_text_describes_no_scene(text: str) -> None:
    with pytest.raises(ValueError, match="describes no scene"):
        parse(text)


def test_captions_are_paraphrased() -> None:
    texts = [captions(scene) for scene in random.Random(0).sample(FULL.scenes(), 40)]
    assert min(len(group) for group in texts) >= 12
    every = [text for group in texts for text in group]
    assert len(set(every)) == len(every)
    assert 0.07 < sum(map(is_held_out, every)) / len(every) < 0.13


def test_captions_read_naturally_and_omit_only_defaults() -> None:
    plain = captions(Scene.of("red", "circle", "large", "right", "black"))
    assert "a red circle moving right" in plain
    assert "a big red disc travelling to the right against black" in plain
    drifting = captions(Scene.of("orange", "square", "small", "left", "white"))
    assert "on a white background, a small orange square drifts left" in drifting
    assert all("white" in text for text in drifting)
    assert all("small" in text or "little" in text for text in drifting)
    assert "an orange star spins" in captions(
        Scene.of("orange", "star", "large", "spinning", "black")
    )


def test_two_actors_differ_and_are_told_in_order() -> None:
    rng = random.Random(0)
    for scene in drawn(ONLY_PAIRS, 200):
        first, second = scene.actors
        assert first.colour != second.colour
        text = describe(scene, rng)
        told = {"above": " above ", "left": " to the left of "}[str(scene.relation)]
        before, after = text.split(told, 1)
        assert first.colour in before
        assert second.colour in after
        with pytest.raises(ValueError, match="unpack"):
            attributes(scene)


def test_every_word_is_known() -> None:
    rng = random.Random(0)
    for world, known in ((FULL, words(pairs=False)), (PAIRS, words())):
        for scene in drawn(world, 500):
            assert set(describe(scene, rng).replace(",", "").split()) <= known


def test_training_never_draws_a_held_out_caption() -> None:
    scenes = drawn(SMALL, 3000)
    training = sample_training(scenes, random.Random(0))
    held_out = sample_held_out(SMALL, 300, seed=0)
    assert not any(map(is_held_out, training))
    assert all(is_held_out(text) for _, text in held_out)
    assert len({text for _, text in held_out}) == 300
    assert set(scenes) == set(SMALL.scenes())
    assert all(parse(text) == scene for scene, text in held_out)


def test_held_out_captions_spread_over_the_scenes() -> None:
    pairs = sample_held_out(FULL, 500, seed=3)
    assert len({scene for scene, _ in pairs}) == 500
    assert pairs == sample_held_out(FULL, 500, seed=3)
    left_out = frozenset(text for _, text in pairs[:100])
    others = sample_held_out(FULL, 500, seed=3, exclude=left_out)
    assert not left_out & {text for _, text in others}
    with pytest.raises(RequestError, match="held-out captions, 10000 are needed"):
        sample_held_out(replace(SMALL, colours=("red",), motions=("up",)), 10**4, seed=0)


def test_render_gives_repeatable_frames_in_range() -> None:
    scenes = drawn(PAIRS, 8)
    clip = render(scenes, PAIRS, seeded(1))
    assert clip.shape == (8, 16, 3, 64, 64)
    assert clip.dtype == torch.float32
    assert clip.min() >= 0
    assert clip.max() <= 1
    assert torch.equal(clip, render(scenes, PAIRS, seeded(1)))
    assert not torch.equal(clip, render(scenes, PAIRS, seeded(2)))


def test_edges_are_anti_aliased() -> None:
    clip = render([moving("circling", shape="circle")], FULL, seeded())[0, :, 0]
    partial = ((clip > 0.05) & (clip < 0.85)).float().mean((1, 2))
    assert (partial > 0.01).all()


def test_render_draws_the_times_asked_for() -> None:
    scenes = [moving("right"), moving("growing", shape="star")]
    clip = render(scenes, FULL, seeded())
    ends = render(scenes, FULL, seeded(), times=torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    assert torch.equal(ends[0], clip[0, [0, -1]])
    assert torch.equal(ends[1], clip[1, [-1, 0]])


def test_objects_stay_inside_the_frame() -> None:
    alone = [s for s in FULL.scenes() if s.background == "black" and s.actors[0].colour == "red"]
    pairs = [replace(scene, background="black") for scene in drawn(ONLY_PAIRS, 100)]
    border = torch.ones(64, 64, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    for scenes in (alone, pairs):
        assert render(scenes, FULL, seeded())[..., border].max() == 0


def test_two_actors_keep_apart() -> None:
    scenes = [replace(scene, background="black") for scene in drawn(ONLY_PAIRS, 100)]
    clips = render(scenes, ONLY_PAIRS, seeded()).amax((1, 2))
    for scene, shown in zip(scenes, clips, strict=True):
        between = shown[31:33] if scene.relation == "above" else shown[:, 31:33]
        assert between.max() < 0.05


@pytest.mark.parametrize("size", FULL.sizes)
@pytest.mark.parametrize(
    ("motion", "axis", "sign"), [("right", 0, 1), ("left", 0, -1), ("down", 1, 1), ("up", 1, -1)]
)
def test_straight_motions_go_the_way_they_are_named(
    size: str, motion: str, axis: int, sign: int
) -> None:
    path = centres(moving(motion, size))
    steps = path.diff(dim=0)
    assert (sign * steps[:, axis] > 0.5).all()
    assert steps[:, 1 - axis].abs().max() < 0.1


def test_other_motions_move_as_named() -> None:
    circle, bounce = centres(moving("circling")), centres(moving("bouncing"))
    assert (circle[0] - circle[-1]).norm() < 0.1
    assert (circle.amax(0) - circle.amin(0)).min() > 14
    assert (bounce[0] - bounce[-1]).norm() < 0.1
    assert (bounce[:, 1].diff().sign().diff() != 0).sum() >= 3
    growing = render([moving("growing", shape="circle")], FULL, seeded())[0].sum((1, 2, 3))
    assert (growing.diff() > 0).all()
    assert (centres(moving("spinning", shape="triangle")).diff(dim=0).abs() < 0.1).all()
