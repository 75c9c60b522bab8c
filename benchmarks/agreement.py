"""How far each engine and precision is from PyTorch float32 over all steps of a video.

    python benchmarks/agreement.py CHECKPOINT                    against the built-in bundle
    python benchmarks/agreement.py CHECKPOINT --bundle BUNDLE

CHECKPOINT is what the bundle was built from. Text encoder and U-Net run in PyTorch eager float32
with the bundle's sampler and noise, once a prompt; then the pipeline of `hb-run` makes the same
latents on every device that works here, in every precision it has. Prints a Markdown table of
signal-to-noise ratios of the last latents, the worst and the median prompt.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hummingbird_edge.benchmarks.engines import working_devices
from hummingbird_edge.export.checkpoint import read_checkpoint
from hummingbird_edge.export.models.config import ModelConfig
from hummingbird_edge.export.weights import CheckpointWeights
from hummingbird_edge.quantize.storage import round_to_float16
from hummingbird_edge.runtime.bundle import BUILTIN, Bundle
from hummingbird_edge.runtime.device import Device
from hummingbird_edge.runtime.noise import gaussian_noise
from hummingbird_edge.runtime.request import Request
from hummingbird_edge.runtime.sampler import guidance_embedding
from hummingbird_edge.runtime.text_to_video import TextToVideo
from hummingbird_edge.runtime.trial import snr_db

PROMPTS = (
    "a red circle moving right",
    "a large blue square spinning",
    "a small green cross moving up on white",
    "a yellow triangle standing still",
)

Latents = NDArray[np.float32]


def pytorch_latents(bundle: Bundle, checkpoint: str) -> Callable[[Request], Latents]:
    """Return a function that makes a request's latents (1, C, T, h, w) in PyTorch."""
    config = ModelConfig.from_dict(bundle.manifest.provenance["config"])
    weights = CheckpointWeights(read_checkpoint(checkpoint))
    text, unet = (weights.load(name, config).eval() for name in ("text_encoder", "unet"))
    if bundle.manifest.stages["unet"]["variants"][0]["storage"] == "float16":
        round_to_float16(text)
        round_to_float16(unet)
    tokens = TextToVideo(bundle, "cpu").tokens
    guidance_width = bundle.manifest.model.guidance_width
    assert guidance_width is not None

    def make(request: Request) -> Latents:
        shape = request.latent_shape(bundle.manifest)
        x_t = gaussian_noise(shape, request.seed, 0)
        denoised = x_t
        with torch.inference_mode():
            context = text(torch.from_numpy(tokens(request.prompt).ids[None]))
            for step in bundle.manifest.sampler.steps(request.steps):
                output = unet(
                    torch.from_numpy(x_t),
                    torch.tensor([step.t]),
                    context,
                    torch.from_numpy(guidance_embedding(request.guidance, guidance_width)),
                    torch.tensor([request.fps]),
                )
                noise = gaussian_noise(shape, request.seed, 1 + step.index)
                x_t, denoised = step(x_t, output.numpy(), noise)
        return denoised

    return make


def ways() -> Iterator[tuple[str, str]]:
    """Yield every device that works here with every precision it has."""
    for name in working_devices():
        yield from ((name, precision) for precision in Device.parse(name).precisions())


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", help="what the bundle was built from")
    parser.add_argument("--bundle", type=Path, default=BUILTIN)
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    arguments = parser.parse_args()
    bundle = Bundle.open(arguments.bundle)
    requests = [
        Request.for_model(bundle.manifest, prompt, seed) for seed, prompt in enumerate(PROMPTS)
    ]
    make = pytorch_latents(bundle, arguments.checkpoint)
    truths = [make(request) for request in requests]
    print("| device | precision | worst | median |\n|---|---|---|---|")
    found = {}
    for device, precision in ways():
        pipeline = TextToVideo(bundle, device, precision)
        ratios = []
        for request, truth in zip(requests, truths, strict=True):
            *_, last = pipeline.generate(request)
            assert last.video is not None
            ratios.append(snr_db(last.video.latents, truth))
        found[f"{device} {precision}"] = ratios
        worst, median = min(ratios), statistics.median(ratios)
        print(f"| {device} | {precision} | {worst:.1f} dB | {median:.1f} dB |", flush=True)
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
