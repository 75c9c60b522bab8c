"""What reading one file may cost: a small file must not take much memory or time."""

from dataclasses import dataclass, field

from hummingbird_edge.runtime.errors import CheckpointError

__all__ = ["Budget"]

_ROOM = 40 << 20
_FOR_A_BYTE = 5
_MAX_FOR_BYTES = 120 << 20
"""Beyond a file of 24 MB it is the weights that grow, not what describes them."""


@dataclass(slots=True)
class Budget:
    """Counts down the bytes that reading `source`, a file of `size` bytes, may make.

    Every reader spends before it makes something, or a moment after where what is made is no
    larger than its own text in the file. Work counts as bytes too, so that time has a bound.
    """

    source: str
    size: int
    left: int = field(init=False)

    def __post_init__(self) -> None:
        self.left = _ROOM + min(_FOR_A_BYTE * self.size, _MAX_FOR_BYTES)

    def spend(self, count: int) -> None:
        """Take `count` bytes; raises CheckpointError where the file has used up its budget."""
        self.left -= count
        if self.left < 0:
            raise CheckpointError(
                f"{self.source}: what describes its tensors repeats itself without end, or takes"
                f" far more memory than a file of {self.size} bytes should;"
                " get it again from its publisher"
            )
