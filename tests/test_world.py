"""The world of moving shapes: its captions, its held-out split and its pixels."""

import pytest
import torch
from torch import Tensor

from hummingbird_edge.distill.world import (
    FULL,
    SMALL,
    Scene,
    World,
    is_held_out,
    render,
    sample_held_out,
    sample_training,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def centres(scene: Scene) -> Tensor:
    """Return the path (T, 2) of the non-black pixels' centre, in pixels."""
    weight = render([scene], FULL, seeded())[0].sum(1)
    ramp = torch.arange(weight.shape[-1], dtype=torch.float32)
    x, y = (weight.sum(1) * ramp).sum(-1), (weight.sum(2) * ramp).sum(-1)
    path: Tensor = torch.stack([x, y], -1) / weight.sum((1, 2))[:, None]
    return path


def moving(motion: str, size: str = "large", shape: str = "square") -> Scene:
    return Scene("red", shape, size, motion, "black")


@pytest.mark.parametrize("world", [FULL, SMALL])
def test_every_caption_names_one_scene(world: World) -> None:
    texts = [text for scene in world.scenes() for text in world.captions(scene)]
    assert len(set(texts)) == len(texts)
    assert min(len(world.captions(scene)) for scene in world.scenes()) >= 12
    assert 0.08 < sum(map(is_held_out, texts)) / len(texts) < 0.12


def test_captions_read_naturally_and_omit_only_defaults() -> None:
    plain = FULL.captions(Scene("red", "circle", "large", "right", "black"))
    assert "a red circle moving right" in plain
    assert "a big red disc travelling to the right against black" in plain
    drifting = FULL.captions(Scene("orange", "square", "small", "left", "white"))
    assert "on a white background, a small orange square drifts left" in drifting
    assert all("white" in text for text in drifting)
    assert all("small" in text or "little" in text for text in drifting)
    assert "an orange star spins" in FULL.captions(
        Scene("orange", "star", "large", "spinning", "black")
    )


def test_training_never_draws_a_held_out_caption() -> None:
    training = sample_training(SMALL, 5000, seeded())
    held_out = sample_held_out(SMALL, 300, seed=0)
    assert not any(is_held_out(text) for _, text in training)
    assert all(is_held_out(text) for _, text in held_out)
    assert len({text for _, text in held_out}) == 300
    assert {scene for scene, _ in training} == set(SMALL.scenes())
    assert all(text in SMALL.captions(scene) for scene, text in training[:50] + held_out)


def test_held_out_captions_spread_over_the_scenes() -> None:
    pairs = sample_held_out(FULL, 500, seed=3)
    assert len({scene for scene, _ in pairs}) == 500
    assert pairs == sample_held_out(FULL, 500, seed=3)
    with pytest.raises(ValueError, match="were asked for"):
        sample_held_out(SMALL, 10**6, seed=0)


def test_no_circle_spins() -> None:
    assert all((s.shape, s.motion) != ("circle", "spinning") for s in FULL.scenes())


def test_render_gives_repeatable_frames_in_range() -> None:
    scenes = [scene for scene, _ in sample_training(FULL, 8, seeded())]
    clip = render(scenes, FULL, seeded(1))
    assert clip.shape == (8, 16, 3, 64, 64)
    assert clip.dtype == torch.float32
    assert clip.min() >= 0
    assert clip.max() <= 1
    assert torch.equal(clip, render(scenes, FULL, seeded(1)))
    assert not torch.equal(clip, render(scenes, FULL, seeded(2)))


def test_render_draws_the_times_asked_for() -> None:
    scenes = [moving("right"), moving("growing", shape="star")]
    clip = render(scenes, FULL, seeded())
    ends = render(scenes, FULL, seeded(), times=torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    assert torch.equal(ends[0], clip[0, [0, -1]])
    assert torch.equal(ends[1], clip[1, [-1, 0]])


def test_objects_stay_inside_the_frame() -> None:
    scenes = [s for s in FULL.scenes() if (s.colour, s.background) == ("red", "black")]
    clip = render(scenes, FULL, seeded())
    border = torch.ones(64, 64, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert clip[..., border].max() == 0


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
