"""Recipes: the world, the sizes of the networks, how long each stage trains and on what.

`SHAPES_RECIPE` is that of moving shapes, in hours of two cores.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from hummingbird_edge.distill.train.consistency import ConsistencyRecipe
from hummingbird_edge.distill.train.matching import MatchingRecipe
from hummingbird_edge.distill.train.training import Plan
from hummingbird_edge.distill.world.shapes.captions import words
from hummingbird_edge.distill.world.shapes.scene import FULL, World
from hummingbird_edge.export.models.config import ModelConfig, TextConfig, UNetConfig, VAEConfig
from hummingbird_edge.export.vocabulary import Vocabulary
from hummingbird_edge.runtime.bundle.manifest import Defaults
from hummingbird_edge.runtime.files import atomic_folder
from hummingbird_edge.runtime.tokenizer import Tokenizer

__all__ = ["SHAPES_RECIPE", "Recipe"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that determines a training run, except its seed."""

    world: World
    """Scenes and captions that clips are drawn from."""
    teacher: ModelConfig
    """Sizes of the teacher's networks; the vocabulary's size is filled in from the words."""
    clips: int
    """Clips of the world encoded once for every stage."""
    plans: Mapping[str, Plan]
    """How long each stage trains, by its name."""
    matching: MatchingRecipe = field(default_factory=MatchingRecipe)
    consistency: ConsistencyRecipe = field(default_factory=ConsistencyRecipe)
    rewards: Mapping[str, float] = field(default_factory=lambda: {"shapes": 1.0, "scorer": 0.1})
    """Weight of each reward of stage 2."""
    guidance: float = 7.5
    """The student's default w, and the teacher's. Published models use 7.5. In the shapes world a
    caption determines nearly the whole clip, so that the unconditional prediction is far away: at
    7.5 half of the teacher's clips burn out, at 1 to 2 none does."""

    def with_plan(self, stage: str, steps: int | None = None, batch: int | None = None) -> "Recipe":
        """Return the recipe with another length or batch of one stage, where they are given."""
        if stage not in self.plans:
            return self
        plan = self.plans[stage]
        plan = replace(plan, steps=steps or plan.steps, batch=batch or plan.batch)
        return replace(self, plans={**self.plans, stage: plan})

    def tokenizer(self, folder: Path) -> Tokenizer:
        """Return the tokenizer in `folder/tokenizer`; CLIP's, cut down to the world's words.

        Written once: the numbers of the words are part of the trained weights.
        """
        length = self.teacher.text.context_length
        if not (folder / "tokenizer" / "vocab.json").exists():
            vocabulary = Vocabulary.clip().restricted_to(words(self.world.pairs > 0))
            with atomic_folder(folder / "tokenizer") as partial:
                vocabulary.write(partial, length)
        return Tokenizer(folder / "tokenizer", length)

    def teacher_config(self, tokenizer: Tokenizer, scaling_factor: float) -> ModelConfig:
        """Return the teacher's configuration with what data and words decide filled in."""
        return replace(
            self.teacher,
            text=replace(self.teacher.text, vocab_size=tokenizer.vocabulary_size),
            vae=replace(self.teacher.vae, scaling_factor=scaling_factor),
        )

    def student_unet(self, has_guidance: bool = True) -> UNetConfig:
        """Return the 0.7b shape of the teacher: one block a level, none in the middle."""
        return replace(
            self.teacher.unet,
            res_blocks=1,
            middle_block=False,
            guidance_width=256 if has_guidance else None,
        )

    def student_config(self, teacher: ModelConfig, unet: UNetConfig) -> ModelConfig:
        """Return the few-step configuration around a student's U-Net."""
        steps = replace(teacher.defaults, steps=4, guidance=self.guidance)
        return replace(teacher, unet=unet, method="lcm", defaults=steps)


SHAPES_RECIPE = Recipe(
    # Eight frames: the temporal convolutions of one block then reach a border from every frame, and
    # a frame's distance to the border is all that shows its place.
    world=replace(FULL, frames=8),
    teacher=ModelConfig(
        text=TextConfig(width=128, layers=4, heads=4),
        # 8 channels a group and more: with 2, normalization wipes out what the text adds.
        unet=UNetConfig(
            width=64,
            multipliers=(1, 2),
            res_blocks=2,
            attention_levels=(0,),
            head_width=32,
            initial_heads=4,
            context_width=128,
            middle_block=True,
            guidance_width=None,
            groups=8,
        ),
        vae=VAEConfig(width=16, multipliers=(1, 2, 4, 8), res_blocks=1, groups=2),
        prediction_type="v_prediction",
        method="ddim",
        defaults=Defaults(frames=8, width=64, height=64, steps=50, guidance=1.5, fps=4),
    ),
    guidance=1.5,
    matching=MatchingRecipe(guidance=1.5),
    # A caption nearly determines its clip, so the clip itself is a good target too.
    consistency=ConsistencyRecipe(
        guidance=(1.0, 2.0), task_weight=1.0, first_share=0.35, simulated_share=0.8, reward_clips=6
    ),
    rewards={"shapes": 2.0, "scorer": 0.2},
    clips=8192,
    plans={
        "autoencoder": Plan(2600, 32, 2e-3, log_every=200, save_every=200, weight_decay=0.0),
        "teacher": Plan(3000, 12, 1e-3),
        "matching": Plan(800, 12, 5e-4, decay=0.99, save_every=200),
        "scorer": Plan(500, 64, 1e-3, decay=0.99, save_every=250),
        "decoder": Plan(1200, 32, 5e-4, decay=0.99, save_every=200, weight_decay=0.0),
        "consistency": Plan(2000, 12, 3e-4, decay=0.98, log_every=50, save_every=100),
    },
)
