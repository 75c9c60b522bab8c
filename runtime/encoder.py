"""A prompt to the contexts that the U-Net reads."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.placement.notices import Notices
from hummingbird_edge.runtime.tokenizer import Tokenizer

__all__ = ["encode"]

Floats = NDArray[np.float32]


def encode(
    prompts: list[str],
    tokenizer: Tokenizer,
    run: Callable[[Mapping[str, NDArray[Any]]], Floats],
    notices: Notices | None = None,
) -> list[Floats]:
    """Return the encoded prompts (1, 77, D), each by one `run` of the text encoder.

    A prompt that is longer than the encoder reads is cut, with a warning.
    """
    contexts = []
    for prompt in prompts:
        tokens = tokenizer(prompt)
        if tokens.truncated and notices is not None:
            notices.warn(
                f"the prompt has {tokens.count} tokens, the model reads {len(tokens.ids)}: "
                f"the rest is cut"
            )
        contexts.append(run({"input_ids": tokens.ids[None, :]}))
    return contexts
