"""Stage 1 of distillation: the pruned student learns the predictions of its guided teacher.

    L = L_task + a L_output + b L_features

    L_task      the prediction against the clip it was noised from
    L_output    the prediction against the teacher's, guided by classifier-free guidance
    L_features  the activations at the end of each level against the teacher's, over their power

Source: Hummingbird (arXiv:2503.18559), section 3; the three losses are BK-SDM's (Kim et al. 2023,
arXiv:2305.15798), equations 2 to 5.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from hummingbird_edge.distill.data.batches import Batches, draw_fps
from hummingbird_edge.distill.data.clips import Clips
from hummingbird_edge.distill.train.diffusion import Diffusion, predict
from hummingbird_edge.distill.train.model import Model
from hummingbird_edge.distill.train.prune import blocks
from hummingbird_edge.distill.train.sampling import embed_guidance, guide
from hummingbird_edge.distill.train.training import Stage
from hummingbird_edge.export.models.unet import UNet

__all__ = ["MatchingRecipe", "MatchingStage"]


@dataclass(frozen=True, slots=True)
class MatchingRecipe:
    """Weights of the losses of stage 1, and its guidance."""

    guidance: float = 7.5
    """The teacher's w, which the student gets as its guidance embedding."""
    output_weight: float = 1.0
    feature_weight: float = 0.5
    first_share: float = 0.4
    """Share of the draws at the last timestep."""


class MatchingStage(Stage[UNet]):
    """The loss of a student's U-Net against its teacher's; both read the teacher's text encoder."""

    def __init__(
        self,
        teacher: Model,
        student: UNet,
        clips: Clips,
        recipe: MatchingRecipe,
        batch: int,
        device: torch.device,
    ) -> None:
        super().__init__()
        teacher.frozen(device)
        self.trained = student.to(device).requires_grad_(True)
        self.teacher, self.text = teacher.unet, teacher.text
        self.ends = list(zip(_ends(student), _ends(teacher.unet), strict=True))
        self.diffusion = Diffusion(teacher.config.sampler())
        self.batches = Batches(clips, teacher.tokenizer, device)
        self.empty = teacher.ids([""]).to(device)
        self.recipe, self.batch, self.device = recipe, batch, device

    def forward(self, step: int, generator: torch.Generator) -> Mapping[str, torch.Tensor]:
        """Return `task`, `output`, `features` (mean squared errors) and their weighted `loss`."""
        count, device, recipe, diffusion = self.batch, self.device, self.recipe, self.diffusion
        batch = self.batches.draw(count, generator)
        t = diffusion.draw_timesteps(count, recipe.first_share, generator).to(device)
        noise = torch.randn(batch.x0.shape, generator=generator).to(device)
        fps = draw_fps(count, generator).to(device)
        x_t = diffusion.noised(batch.x0, noise, t, torch.ones(1, device=device))
        with torch.no_grad():
            context, nothing = self.text(batch.ids), self.text(self.empty).expand(count, -1, -1)
            with _collecting(self.teacher, [theirs for _, theirs in self.ends]) as taught:
                conditional = predict(self.teacher, x_t, t, context, None, fps)
            unconditional = predict(self.teacher, x_t, t, nothing, None, fps)
            w = torch.tensor(recipe.guidance, device=device)
            guided = guide(conditional, unconditional, w)
        cond = None
        if (width := self.trained.config.guidance_width) is not None:
            cond = embed_guidance([recipe.guidance] * count, width).to(device)
        with _collecting(self.trained, [ours for ours, _ in self.ends]) as learnt:
            output = predict(self.trained, x_t, t, context, cond, fps)
        task = (output - diffusion.target(batch.x0, noise, x_t, t)).square().mean()
        match = (output - guided).square().mean()
        pairs = [(learnt[ours], taught[theirs]) for ours, theirs in self.ends]
        features = torch.stack([_distance(ours, theirs) for ours, theirs in pairs]).mean()
        loss = task + recipe.output_weight * match + recipe.feature_weight * features
        return {"loss": loss, "task": task, "output": match, "features": features}


def _distance(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Return the mean squared difference over the teacher's mean square."""
    theirs = theirs.float()
    return (ours.float() - theirs).square().mean() / theirs.square().mean().clamp(min=1e-6)


def _ends(unet: UNet) -> list[str]:
    """Return the name of the last block of every level, down and up."""
    last = {(block.side, block.level): block.name for block in blocks(unet.config)}
    return list(last.values())


@contextmanager
def _collecting(unet: UNet, names: list[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Collect what the named modules return while the context lasts."""
    outputs: dict[str, torch.Tensor] = {}

    def collect(name: str) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, __: object, output: torch.Tensor) -> None:
            outputs[name] = output

        return unet.get_submodule(name).register_forward_hook(hook)

    handles = [collect(name) for name in names]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
