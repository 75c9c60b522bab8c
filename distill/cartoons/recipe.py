"""The cartoons' recipe: the networks' sizes, and what share of the time each stage gets."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from hummingbird_edge.distill.cartoons.autoencoder import VAE_CONFIG
from hummingbird_edge.distill.cartoons.budget import Schedule
from hummingbird_edge.distill.train.consistency import ConsistencyRecipe
from hummingbird_edge.distill.train.matching import MatchingRecipe
from hummingbird_edge.distill.world.cartoons.shots import World, words
from hummingbird_edge.export.models.config import ModelConfig, TextConfig, UNetConfig
from hummingbird_edge.export.vocabulary import Vocabulary
from hummingbird_edge.runtime.bundle.manifest import Defaults
from hummingbird_edge.runtime.tokenizer import Tokenizer

__all__ = ["RECIPE", "RECIPES", "SMALL", "TINY", "Recipe", "StagePlan"]


@dataclass(frozen=True, slots=True)
class StagePlan:
    """What one stage gets."""

    share: float
    """Of the budget's time; shares of the stages that are run are made to sum to 1."""
    cpu_batch: int = 0
    gpu_batch: int = 0
    """Clips (frames for the VAE) a step and process."""
    schedule: Schedule = field(default_factory=lambda: Schedule(peak_rate=5e-4))


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that a run is a function of, but its seed and its time."""

    world: World
    teacher: ModelConfig
    """Sizes of the networks; vocabulary and scaling are filled in from words and latents."""
    plans: Mapping[str, StagePlan]
    clips: int
    """Clips encoded at most."""
    matching: MatchingRecipe
    consistency: ConsistencyRecipe
    reward_weight: float
    """Of the critic, beside consistency."""
    guidance: float
    """The teacher's default w, and the student's."""
    is_pruned: bool = True
    """Whether the student has one block a level and none in the middle."""
    unseen: tuple[str, ...] = ()
    """Nouns that the judge alone learns, not the critic: it tells what an adapter was taught."""

    def tokenizer(self, folder: Path) -> Tokenizer:
        """Return the tokenizer in `folder/tokenizer`; CLIP's, cut down to the world's words."""
        length = self.teacher.text.context_length
        if not (folder / "tokenizer" / "vocab.json").exists():
            Vocabulary.clip().restricted_to(words()).write(folder / "tokenizer", length)
        return Tokenizer(folder / "tokenizer", length)

    def teacher_config(self, tokenizer: Tokenizer, scaling_factor: float) -> ModelConfig:
        """Return the teacher's configuration with what data and words decide filled in."""
        side, frames = self.world.resolution, self.world.frames
        defaults = replace(self.teacher.defaults, frames=frames, width=side, height=side)
        return replace(
            self.teacher,
            text=replace(self.teacher.text, vocab_size=tokenizer.vocabulary_size),
            vae=replace(self.teacher.vae, scaling_factor=scaling_factor),
            defaults=replace(defaults, guidance=self.guidance),
        )

    def student_unet(self) -> UNetConfig:
        """Return the student's shape: Hummingbird's 0.7b, or the teacher's own."""
        guided = replace(self.teacher.unet, guidance_width=256)
        return replace(guided, res_blocks=1, middle_block=False) if self.is_pruned else guided

    def student_config(self, teacher: ModelConfig, unet: UNetConfig) -> ModelConfig:
        """Return the few-step configuration around a student's U-Net."""
        defaults = replace(teacher.defaults, steps=4, guidance=self.guidance)
        return replace(teacher, unet=unet, method="lcm", defaults=defaults)


RECIPE = Recipe(
    world=World(),
    teacher=ModelConfig(
        # The longest caption has 22 tokens; every token costs in every frame.
        text=TextConfig(width=256, layers=5, heads=4, context_length=32),
        # 10 channels a group: with 2, normalization wipes out what the text adds.
        unet=UNetConfig(
            latent_channels=VAE_CONFIG.latent_channels,
            width=80,
            multipliers=(1, 2, 2),
            res_blocks=2,
            attention_levels=(0, 1),
            head_width=40,
            initial_heads=2,
            context_width=256,
            middle_block=True,
            guidance_width=None,
            groups=8,
        ),
        vae=VAE_CONFIG,
        prediction_type="v_prediction",
        method="ddim",
        defaults=Defaults(frames=16, width=128, height=128, steps=50, guidance=2.0, fps=8),
    ),
    plans={
        "vae": StagePlan(0.20, 8, 192, Schedule(peak_rate=1e-3, decay=0.998)),
        "judge": StagePlan(0.08, 8, 64, Schedule(1.5e-3, decay=0.998, weight_decay=0.01)),
        "critic": StagePlan(0.06, 8, 64, Schedule(1.5e-3, decay=0.998, weight_decay=0.01)),
        "clips": StagePlan(0.05),
        "teacher": StagePlan(0.36, 4, 48, Schedule(5e-4, decay=0.999, weight_decay=0.01)),
        "matching": StagePlan(0.07, 4, 32, Schedule(3e-4, decay=0.99, weight_decay=0.01)),
        "consistency": StagePlan(0.14, 4, 24, Schedule(2e-4, decay=0.99, weight_decay=0.01)),
        "decoder": StagePlan(0.04, 4, 96, Schedule(5e-4, decay=0.99)),
    },
    clips=24_000,
    matching=MatchingRecipe(guidance=2.0),
    consistency=ConsistencyRecipe(
        guidance=(1.5, 3.0), task_weight=0.5, first_share=0.35, simulated_share=0.5
    ),
    reward_weight=0.02,
    guidance=2.0,
)
FORTY = (
    *("cat", "dog", "rabbit", "horse", "cow", "pig", "elephant", "giraffe", "zebra", "lion"),
    *("penguin", "owl", "parrot", "duck", "flamingo", "fish", "octopus", "whale", "dolphin"),
    *("crab", "bee", "butterfly", "ladybug", "snail", "turtle", "frog", "panda", "fox", "dragon"),
    *("tyrannosaurus", "rocket", "helicopter", "train", "bus", "car", "tractor"),
    *("flying saucer", "ghost", "snowman", "pumpkin"),
)
_SHARES = {
    # Whether an action happens is what a judge learns last.
    **{"vae": 0.16, "judge": 0.12, "critic": 0.05, "clips": 0.03, "teacher": 0.53},
    # A caption nearly determines its clip: four steps are as good as many from the start, and five
    # minutes of consistency took 2 of 32 clips away. It gets next to no time.
    **{"matching": 0.069, "consistency": 0.001, "decoder": 0.04},
}
_SCHEDULES = {
    "teacher": replace(RECIPE.plans["teacher"].schedule, peak_rate=8e-4, decay=0.998),
    "matching": replace(RECIPE.plans["matching"].schedule, peak_rate=2e-4),
    # At 3e-4 the student forgets all sprites within a hundred steps.
    "consistency": replace(RECIPE.plans["consistency"].schedule, peak_rate=6e-5),
}
_SMALL_PLANS = {
    name: replace(plan, share=_SHARES[name], schedule=_SCHEDULES.get(name, plan.schedule))
    for name, plan in RECIPE.plans.items()
}
SMALL = replace(
    RECIPE,
    world=World(nouns=FORTY, resolution=64),
    teacher=replace(
        RECIPE.teacher,
        # Attention at 8 x 8 alone. A third level of 4 x 4 costs as much again as it has weights and
        # adds nothing that attention over 64 places does not see.
        unet=replace(
            RECIPE.teacher.unet,
            latent_channels=4,
            width=64,
            multipliers=(1, 2),
            attention_levels=(1,),
            head_width=32,
            groups=8,
        ),
        # Half of the reduction: 16 x 16 latents, at a quarter of the cost.
        vae=replace(VAE_CONFIG, multipliers=(1, 2, 4), latent_channels=4),
    ),
    plans=_SMALL_PLANS,
    clips=6_000,
    # Of a U-Net of ten million weights none can be spared. Without the middle block three in four
    # sprites are wrong; of half of the blocks, matched for 24 minutes, every other one is.
    is_pruned=False,
    unseen=("spider", "robot"),
)
"""Forty nouns at 64 pixels, for processors alone."""
_NANO = UNetConfig(
    latent_channels=VAE_CONFIG.latent_channels,
    width=16,
    multipliers=(1, 2),
    res_blocks=2,
    attention_levels=(0,),
    head_width=16,
    initial_heads=1,
    context_width=32,
    middle_block=True,
    guidance_width=None,
    groups=2,
)
TINY = replace(
    RECIPE,
    world=World(nouns=("cat", "rocket", "penguin"), resolution=32, frames=4),
    teacher=replace(
        RECIPE.teacher,
        text=TextConfig(width=32, layers=2, heads=2, context_length=32),
        unet=_NANO,
        vae=replace(VAE_CONFIG, width=8, multipliers=(1, 2, 2), groups=1),
    ),
    plans={
        name: replace(plan, cpu_batch=min(plan.cpu_batch, 2)) for name, plan in RECIPE.plans.items()
    },
    clips=16,
    unseen=("spider",),
)
"""Every stage in seconds: nothing it makes is worth looking at."""
RECIPES: Mapping[str, Recipe] = {"full": RECIPE, "small": SMALL, "tiny": TINY}
