"""Rewards: differentiable scores of how well decoded frames match their caption.

A reward is any function of frames (B, T, 3, H, W) in about [0, 1] and B captions to (B,) values,
higher is better. Stage 2 takes any number of them by name.

At full scale Hummingbird (arXiv:2503.18559) uses two published networks. An adapter is a function
of a few lines around their packages:

    def hpsv2(frames, captions):        # Wu et al. 2023, arXiv:2306.09341: an image and its text
        images = preprocess(frames[:, ::4].flatten(0, 1))       # a few frames, 224 x 224
        scores = clip_similarity(images, captions, repeats=frames[:, ::4].shape[1])
        return scores.unflatten(0, (len(captions), -1)).mean(1)

    def internvideo2(frames, captions): # Wang et al. 2024, arXiv:2403.15377: a clip and its text
        clip = preprocess(frames[:, sample_of_8])               # 8 frames, 224 x 224
        return cosine(video_tower(clip), text_tower(captions))

In the shapes world `ShapesReward` replaces the first, `scorer.ContrastiveReward` the second.
"""

import importlib
from collections.abc import Sequence
from typing import Protocol

import torch

from hummingbird_edge.runtime.errors import RequestError

__all__ = ["Reward", "load_reward"]


class Reward(Protocol):
    """A differentiable score."""

    def __call__(self, frames: torch.Tensor, captions: Sequence[str]) -> torch.Tensor:
        """Score `frames` (B, T, 3, H, W), RGB in about [0, 1], by `captions`: (B,) float32."""
        ...


def load_reward(name: str) -> Reward:
    """Import the reward `module:function`; raises RequestError where there is none."""
    module, _, function = name.partition(":")
    try:
        reward: Reward = getattr(importlib.import_module(module), function)
        if not callable(reward):
            raise ValueError(f"it is a {type(reward).__name__}")
    except (ImportError, AttributeError, ValueError) as error:
        raise RequestError(
            f"there is no reward {name!r} ({error}): choose shapes, scorer or MODULE:FUNCTION"
        ) from error
    return reward
