"""Text to video on a laptop: AMD's Hummingbird without PyTorch.

from hummingbird_edge import TextToVideo

TextToVideo.from_bundle()("a penguin waddling in the snow", seed=7).save("out.mp4")
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hummingbird_edge.runtime.pipeline import TextToVideo

__all__ = ["TextToVideo", "__version__"]

_HERE = Path(__file__).parent
if not (_HERE / "runtime").is_dir():
    # In a clone the packages lie beside this folder, and Python started there finds this one first.
    __path__.append(str(_HERE.parent))


def __getattr__(name: str) -> Any:
    # Nothing is loaded before it is used: `import hummingbird_edge` takes milliseconds.
    if name == "TextToVideo":
        from hummingbird_edge.runtime.pipeline import TextToVideo

        return TextToVideo
    if name == "__version__":
        from importlib.metadata import version

        return version("hummingbird-edge")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
