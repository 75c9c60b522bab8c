"""One run of the cartoons' recipe: its folder, its device, its time, and what it left so far."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hummingbird_edge.distill.cartoons.budget import fit_budget, is_first, share_spent, wait
from hummingbird_edge.distill.cartoons.judging import build_judge
from hummingbird_edge.distill.cartoons.recipe import Recipe
from hummingbird_edge.distill.data.clips import Clips
from hummingbird_edge.distill.train.model import Model
from hummingbird_edge.distill.train.run import Run
from hummingbird_edge.distill.train.training import Stage
from hummingbird_edge.distill.world.cartoons.judge import Judge
from hummingbird_edge.distill.world.cartoons.sprites import Sprites
from hummingbird_edge.export.models.config import ModelConfig, VAEConfig
from hummingbird_edge.export.models.text_encoder import TextEncoder
from hummingbird_edge.export.models.unet import UNet
from hummingbird_edge.export.models.vae import VAE
from hummingbird_edge.runtime.errors import CheckpointError, RequestError
from hummingbird_edge.runtime.tokenizer import Tokenizer

__all__ = ["Session", "Weights"]

Weights = Mapping[str, torch.Tensor]
SHARED = frozenset(
    [
        "vae.pt",
        "judge.pt",
        "critic.pt",
        "clips.safetensors",
        "shots.json",
        "teacher.pt",
        "tokenizer",
    ]
)
"""Files of what is finished before a student begins."""


@dataclass(frozen=True, slots=True)
class Session:
    """One run of the recipe on one device."""

    run: Path
    recipe: Recipe
    sprites: Sprites
    device: torch.device
    seed: int
    budgets: Mapping[str, float]
    """Seconds of each stage that is run."""
    scored: int = 100
    """Held-out shots that the student is scored on."""
    base: Path | None = None
    """Another run, of which `SHARED` is read: students of one teacher are compared."""

    def path(self, name: str) -> Path:
        """Return where a file is read from."""
        return (self.base if self.base and name in SHARED else self.run) / name

    def batch(self, stage: str) -> int:
        """Return how many clips a step of `stage` has on this device."""
        plan = self.recipe.plans[stage]
        return plan.gpu_batch if self.device.type == "cuda" else plan.cpu_batch

    def fit(
        self,
        name: str,
        stage: Stage[Any],
        config: Mapping[str, object],
        measure: Callable[[Weights], Mapping[str, float]] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Train one stage for its share of the time; returns its averaged weights."""
        schedule = self.recipe.plans[name].schedule
        run = Run(self.run, name, is_first())
        budget_s = self.budgets[name]
        weights = fit_budget(run, stage, schedule, budget_s, self.seed, measure, config)
        wait()  # the first process writes the checkpoint that later stages read
        return weights

    def has(self, stage: str) -> bool:
        """Tell whether a stage has left a checkpoint."""
        return self._checkpoint(stage).checkpoint_path.exists()

    def state(self, stage: str) -> dict[str, Any]:
        """Return the checkpoint of a stage; raises RequestError where there is none."""
        run = self._checkpoint(stage)
        if (state := run.load()) is None:
            raise RequestError(f"{run.folder} has no {stage} yet: run that stage first")
        return state

    def _checkpoint(self, stage: str) -> Run:
        """Return where a stage's checkpoint is read."""
        return Run(self.path(f"{stage}.pt").parent, stage)

    def finished_state(self, stage: str) -> dict[str, Any]:
        """Return the checkpoint of a stage; raises RequestError where it has not ended."""
        state = self.state(stage)
        if (share := share_spent(state)) < 1:
            raise RequestError(
                f"{self._checkpoint(stage).folder} has a {stage} that had "
                f"{math.floor(100 * share)} % of its time: run that stage first"
            )
        return state

    def vae(self) -> VAE:
        """Return the run's trained VAE, frozen; raises HummingbirdError."""
        state = self.finished_state("vae")
        with self._reading():
            vae = VAE(VAEConfig(**state["config"])).to(self.device)
            vae.load_state_dict(state["average"])
        vae.eval().requires_grad_(False)
        return vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def judge(self, stage: str = "judge") -> Judge:
        """Return the run's trained judge, or its critic, frozen; raises HummingbirdError."""
        state = self.finished_state(stage)
        return build_judge(state, self._checkpoint(stage).checkpoint_path).to(self.device)

    def tokenizer(self) -> Tokenizer:
        """Return the run's tokenizer."""
        return self.recipe.tokenizer(self.path("tokenizer").parent)

    def teacher(self) -> Model:
        """Return the run's trained teacher; raises HummingbirdError."""
        state, vae = self.finished_state("teacher"), self.vae()
        with self._reading():
            config = ModelConfig.from_dict(state["config"])
            text, unet = TextEncoder(config.text), UNet(config.unet)
            text.load_state_dict(_part(state["average"], "text."))
            unet.load_state_dict(_part(state["average"], "unet."))
        return Model(config, text, unet, vae, self.tokenizer())

    def scaling_factor(self) -> float:
        """Return the factor that a teacher, trained to its end or not, takes latents by."""
        with self._reading():
            return float(self.state("teacher")["config"]["vae"]["scaling_factor"])

    def student(self, teacher: Model, state: Mapping[str, Any]) -> Model:
        """Return the student of a checkpoint of `matching` or `consistency`."""
        with self._reading():
            return teacher.with_unet(ModelConfig.from_dict(state["config"]), state["average"])

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Raise CheckpointError where a checkpoint is that of another model."""
        try:
            yield
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{self.run} holds a model of another shape ({str(error).splitlines()[0]}): "
                f"choose another folder, or delete it"
            ) from error

    def clips(self) -> Clips:
        """Read the run's encoded clips; raises RequestError where there are none."""
        path = self.path("clips.safetensors")
        if not path.exists():
            raise RequestError(f"{path.parent} has no encoded clips yet: run the stage clips first")
        return Clips.read(path)

    def write(self, model: Model, folder: str) -> None:
        """Write a model folder once, and let every process wait for it."""
        if is_first():
            model.write(self.run / folder)
        wait()


def _part(weights: Weights, prefix: str) -> Weights:
    own = {name: tensor for name, tensor in weights.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): tensor for name, tensor in own.items()}
