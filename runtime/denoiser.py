"""The U-Net as a sampler calls it: noisy latents and a timestep in, a prediction out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.sampler import guidance_embedding

__all__ = ["Denoiser"]

Latents = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Denoiser:
    """A U-Net with everything of one video that no step changes."""

    run: Callable[[Mapping[str, NDArray[Any]]], Latents]
    """Takes the graph's inputs by name, returns its prediction."""
    contexts: Sequence[NDArray[np.float32]]
    """The encoded prompt (1, 77, D); without a guidance embedding the empty prompt's after it."""
    guidance: float
    guidance_width: int | None
    """Width of the guidance-scale embedding; None where guidance takes a second pass."""
    fps: int

    def __call__(self, x_t: Latents, t: int) -> Latents:
        """Return the prediction for latents (1, C, T, h, w) at timestep `t`, shaped like them.

        Without a guidance embedding that is w steps from the empty prompt's to the prompt's
        (classifier-free guidance, arXiv:2207.12598).
        """
        inputs: dict[str, NDArray[Any]] = {
            "sample": x_t,
            "timestep": np.array([t], np.int64),
            "fps": np.array([self.fps], np.int64),
        }
        if self.guidance_width is not None:
            inputs["timestep_cond"] = guidance_embedding(self.guidance, self.guidance_width)
            return self.run({**inputs, "encoder_hidden_states": self.contexts[0]})
        conditional, unconditional = (
            self.run({**inputs, "encoder_hidden_states": context}) for context in self.contexts
        )
        return unconditional + np.float32(self.guidance) * (conditional - unconditional)
