"""The 16 dimensions of VBench: how each is scaled and weighed, and what its evaluation needs."""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["BY_NAME", "DIMENSIONS", "FLICKER", "OWN_PROMPTS", "Dimension"]

FLICKER = "temporal_flickering"
"""The one dimension that needs no weights."""
OWN_PROMPTS = (
    "subject_consistency",
    "background_consistency",
    "motion_smoothness",
    "dynamic_degree",
    "aesthetic_quality",
    "imaging_quality",
)
"""The dimensions that VBench documents for prompts of one's own; its code also takes flicker."""

_CLIP_B, _CLIP_L = "clip_model/ViT-B-32.pt", "clip_model/ViT-L-14.pt"
_GRIT = "grit_model/grit_b_densecap_objectdet.pth"
_VICLIP = ("ViCLIP/ViClip-InternVid-10M-FLT.pth", "ViCLIP/bpe_simple_vocab_16e6.txt.gz")


@dataclass(frozen=True, slots=True)
class Dimension:
    """One dimension; `normalized` is what the leaderboard averages."""

    name: str
    low: float
    """The score that counts as 0, published with the leaderboard's code."""
    high: float
    """The score that counts as 1."""
    is_quality: bool
    """Part of the quality score, else of the semantic score."""
    weights: tuple[str, ...] = ()
    """Files and folders below the official package's cache folder, by its own names."""
    importance: float = 1.0
    """Weight in its half of the total."""

    @property
    def title(self) -> str:
        """The name in words."""
        return self.name.replace("_", " ")

    def normalized(self, score: float) -> float:
        """Return `score` scaled so that `low` is 0 and `high` is 1."""
        return (score - self.low) / (self.high - self.low)


DIMENSIONS = (
    Dimension(
        "subject_consistency",
        0.1462,
        1.0,
        True,
        ("dino_model/facebookresearch_dino_main", "dino_model/dino_vitbase16_pretrain.pth"),
    ),
    Dimension("background_consistency", 0.2615, 1.0, True, (_CLIP_B,)),
    Dimension(FLICKER, 0.6293, 1.0, True),
    Dimension("motion_smoothness", 0.706, 0.9975, True, ("amt_model/amt-s.pth",)),
    Dimension(
        "dynamic_degree", 0.0, 1.0, True, ("raft_model/models/raft-things.pth",), importance=0.5
    ),
    Dimension(
        "aesthetic_quality",
        0.0,
        1.0,
        True,
        (_CLIP_L, "aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth"),
    ),
    Dimension("imaging_quality", 0.0, 1.0, True, ("pyiqa_model/musiq_spaq_ckpt-358bb6af.pth",)),
    Dimension("object_class", 0.0, 1.0, False, (_GRIT,)),
    Dimension("multiple_objects", 0.0, 1.0, False, (_GRIT,)),
    Dimension(
        "human_action", 0.0, 1.0, False, ("umt_model/l16_ptk710_ftk710_ftk400_f16_res224.pth",)
    ),
    Dimension("color", 0.0, 1.0, False, (_GRIT,)),
    Dimension("spatial_relationship", 0.0, 1.0, False, (_GRIT,)),
    Dimension("scene", 0.0, 0.8222, False, ("caption_model/tag2text_swin_14m.pth",)),
    Dimension("appearance_style", 0.0009, 0.2855, False, (_CLIP_B,)),
    Dimension("temporal_style", 0.0, 0.364, False, _VICLIP),
    Dimension("overall_consistency", 0.0, 0.364, False, _VICLIP),
)
BY_NAME: Mapping[str, Dimension] = {dimension.name: dimension for dimension in DIMENSIONS}
