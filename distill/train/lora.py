"""Teach a student a style or a subject with low-rank updates of its attention.

    W' = W + (alpha / r) B A            A (r, in), B (out, r)

Source: Hu et al. 2021 (arXiv:2106.09685), section 4.1; the adapter is PEFT's file format, which
`hb-export build --lora` merges.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from hummingbird_edge.distill.data.batches import Batches, draw_fps
from hummingbird_edge.distill.data.clips import Clips
from hummingbird_edge.distill.train.diffusion import Diffusion, predict
from hummingbird_edge.distill.train.model import Model
from hummingbird_edge.distill.train.processes import device, is_first
from hummingbird_edge.distill.train.run import Run
from hummingbird_edge.distill.train.sampling import embed_guidance
from hummingbird_edge.distill.train.training import Plan, Stage, fit
from hummingbird_edge.runtime.errors import OutputError
from hummingbird_edge.runtime.files import atomic_path

__all__ = ["LoraStage", "train_lora"]

TARGETS = r".*\.(to_q|to_k|to_v|to_out\.0|proj|net\.2)"
"""The projections of every transformer block."""
RATE = 1e-3
BATCH = 8


class LoraStage(Stage[nn.ParameterDict]):
    """Denoise the user's clips at the timesteps of a few-step video, by the updates alone."""

    def __init__(self, model: Model, clips: Clips, rank: int, device: torch.device) -> None:
        from peft import LoraConfig, get_peft_model

        super().__init__()
        self.model = model.frozen(device)
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS)
        self.adapted = get_peft_model(model.unet, config)
        self.trained = nn.ParameterDict(
            {
                name.replace(".", "/"): weight
                for name, weight in self.adapted.named_parameters()
                if weight.requires_grad
            }
        )
        self.diffusion = Diffusion(model.config.sampler())
        self.timesteps = torch.tensor(self.diffusion.sampler.timesteps(4))
        self.batches = Batches(clips, model.tokenizer, device)
        self.device = device

    def forward(self, step: int, generator: torch.Generator) -> Mapping[str, torch.Tensor]:
        """Return the mean squared error of the prediction as `loss`."""
        diffusion, device = self.diffusion, self.device
        batch = self.batches.draw(BATCH, generator)
        t = self.timesteps[torch.randint(4, (BATCH,), generator=generator)].to(device)
        noise = torch.randn(batch.x0.shape, generator=generator).to(device)
        cond = None
        if (width := self.model.config.unet.guidance_width) is not None:
            w = self.model.config.defaults.guidance
            cond = embed_guidance([w] * BATCH, width).to(device)
        with torch.no_grad():
            context = self.model.text(batch.ids)
        x_t = diffusion.noised(batch.x0, noise, t, torch.ones(1, device=device))
        fps = draw_fps(BATCH, generator).to(device)
        output = predict(self.model.unet, x_t, t, context, cond, fps)
        return {"loss": (output - diffusion.target(batch.x0, noise, x_t, t)).square().mean()}


def train_lora(
    model_path: Path, clips_path: Path, output: Path, steps: int, rank: int, seed: int
) -> None:
    """Train an adapter of `rank` and write it to `output` in PEFT's format.

    Raises CheckpointError where clips and model do not fit, OutputError where nothing can be
    written. A run that was stopped goes on from `output`.
    """
    model, clips = Model.read(model_path), Clips.read(clips_path)
    clips.check_fits(model.config)
    torch.manual_seed(seed)
    stage = LoraStage(model, clips, rank, device())
    plan = Plan(steps, BATCH, RATE, decay=0.9, log_every=20, save_every=100, weight_decay=0.0)
    weights = fit(Run(output, "lora"), stage, plan, seed)
    stage.trained.load_state_dict(weights)
    if is_first():
        _write_adapter(stage, output)


def _write_adapter(stage: LoraStage, output: Path) -> None:
    """Write the adapter into the folder of its run; raises OutputError."""
    from safetensors import SafetensorError

    try:
        with TemporaryDirectory(prefix="hummingbird-adapter-") as made:
            stage.adapted.save_pretrained(made)
            for name in ("adapter_model.safetensors", "adapter_config.json"):
                with atomic_path(output / name) as partial:
                    shutil.copyfile(Path(made) / name, partial)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{output} cannot be written ({error}): make room") from error
