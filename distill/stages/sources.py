"""Where a stage finds what it starts from, and how it writes the model that it made."""

from dataclasses import dataclass
from pathlib import Path

from hummingbird_edge.distill.data.clips import Clips
from hummingbird_edge.distill.train.model import Model
from hummingbird_edge.distill.train.processes import in_turn, is_first
from hummingbird_edge.runtime.errors import RequestError
from hummingbird_edge.runtime.files import recover

__all__ = ["Sources"]


@dataclass(frozen=True, slots=True)
class Sources:
    """The inputs of a stage; the run's own where a field is None.

    Raises RequestError for a run of the other world, whose files have the same names.
    """

    run: Path
    """The run's folder; what a stage makes is written there."""
    teacher: Path | None = None
    """A model folder or any checkpoint that hb-export build takes."""
    student: Path | None = None
    """Likewise: where stage 1, stage 2 or the decoder starts."""
    clips: Path | None = None
    """Encoded clips, as `hb-distill clips` writes them."""
    scorer: Path | None = None
    """The folder of the run that trained the contrastive reward."""

    def __post_init__(self) -> None:
        if (self.run / "vae.pt").exists():
            raise RequestError(
                f"{self.run} is a run of cartoons: give --world cartoons, or another folder"
            )

    @property
    def clips_path(self) -> Path:
        """Where the clips are."""
        return self.clips or self.run / "clips.safetensors"

    @property
    def is_own(self) -> bool:
        """Whether teacher and clips are the run's, so that the world's judge can watch it."""
        return self.teacher is None and self.clips is None

    def read_teacher(self) -> Model:
        """Read the teacher; raises RequestError where there is none yet."""
        return Model.read(self.teacher or self._require("teacher", "teacher"))

    def read_student(self, stage: str) -> Model:
        """Read the student that the stage before `stage` made; raises RequestError without one."""
        folder, maker = {
            "matching": ("pruned", "prune"),
            "consistency": ("matched", "matching"),
            "decoder": ("distilled", "consistency"),
        }[stage]
        return Model.read(self.student or self._require(folder, maker))

    def read_clips(self) -> Clips:
        """Read the encoded clips; raises RequestError where there are none yet."""
        return Clips.read(self.clips or self._require("clips.safetensors", "clips"))

    def write(self, model: Model, folder: str) -> None:
        """Write a model into the run's folder, from the first process; raises OutputError."""
        with in_turn():
            if is_first():
                model.write(self.run / folder)

    def _require(self, name: str, maker: str) -> Path:
        path = self.run / name
        recover(path)
        if not path.exists():
            raise RequestError(f"{path} is missing: run hb-distill {maker} {self.run} first")
        return path
