"""Requests: defaults are filled in, and nonsense is refused in one sentence."""

import math
from pathlib import Path
from typing import Any

import pytest

from hummingbird_edge.runtime.bundle.manifest import (
    Defaults,
    Manifest,
    ModelMetadata,
    Provenance,
    Stage,
    StageKind,
    Variant,
)
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.request import Request
from hummingbird_edge.runtime.sampler import Sampler

MANIFEST = Manifest(
    name="tiny",
    model=ModelMetadata(4, 8, 4, 0.18215, 77, 16, 256),
    sampler=Sampler(),
    defaults=Defaults(frames=8, width=64, height=96, steps=2, guidance=3.5, fps=10),
    stages={"vae_decoder": Stage(StageKind.DECODER, (Variant("vae_decoder/model.onnx"),))},
    files={},
    provenance=Provenance(),
    licence="",
)


def test_what_is_left_out_is_the_bundles_default() -> None:
    request = Request.for_model(MANIFEST, "a cat", 3)
    assert request == Request("a cat", 8, 64, 96, 2, 3.5, 10, 3)
    assert Request.for_model(MANIFEST, "a cat", 3, frames=None, guidance=None) == request
    assert request.settings() == {
        "prompt": "a cat",
        "frames": 8,
        "width": 64,
        "height": 96,
        "steps": 2,
        "guidance": 3.5,
        "fps": 10,
        "seed": 3,
        "decoder": "full",
    }


def test_what_is_asked_for_wins() -> None:
    asked: dict[str, Any] = {
        "frames": 1,
        "width": 32,
        "height": 160,
        "steps": 50,
        "guidance": 0.0,
        "fps": 1,
    }
    request = Request.for_model(MANIFEST, "a cat", 0, **asked)
    assert {name: getattr(request, name) for name in asked} == asked


def test_latents_have_frames_and_an_eighth_of_the_size() -> None:
    assert Request.for_model(MANIFEST, "a cat", 0).latent_shape(MANIFEST) == (1, 4, 8, 12, 8)


def test_the_unets_downsampling_counts_in_the_divisor(nano_bundle: Path) -> None:
    manifest = Manifest.read(nano_bundle)
    assert manifest.model.size_divisor == 16
    with pytest.raises(RequestError, match="width 72 does not divide by 16"):
        Request.for_model(manifest, "a cat", 0, width=72, height=64)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"width": 72}, "width 72 does not divide by 32, as tiny needs: try 64 or 96"),
        ({"height": 8}, "height 8 does not divide by 32, as tiny needs: try 32"),
        ({"width": 0}, "width is 0: give 1 to 16384"),
        ({"height": -32}, "height is -32: give 1 to 16384"),
        ({"frames": 0}, "frames is 0: give 1 to 10000"),
        ({"frames": -4}, "frames is -4: give 1 to 10000"),
        ({"fps": 0}, "fps is 0: give 1 to 240"),
        ({"steps": 0}, "0 sampling steps were requested: choose 1 to 50"),
        ({"steps": 51}, "51 sampling steps were requested: choose 1 to 50"),
        ({"guidance": math.nan}, "guidance is nan: give 0 to 10000"),
        ({"guidance": math.inf}, "guidance is inf: give 0 to 10000"),
        (
            {"guidance": 10**400},
            "a setting is no number of its kind: int too large to convert to float",
        ),
        ({"guidance": -0.5}, "guidance is -0.5: give 0 to 10000"),
    ],
)
def test_nonsense_is_refused_in_a_sentence(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        Request.for_model(MANIFEST, "a cat", 7, **asked)
    assert str(caught.value) == message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("prompt", ["", " \n\u3000"])
def test_an_empty_prompt_is_refused(prompt: str) -> None:
    with pytest.raises(RequestError, match=r"^the prompt is empty: say what the video shows$"):
        Request.for_model(MANIFEST, prompt, 7)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(RequestError, match=r"^seed is -1: give 0 or more$"):
        Request.for_model(MANIFEST, "a cat", -1)
