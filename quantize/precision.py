"""Which graphs a bundle gets: `int8`, `fp16+int8`, `unet=int8,vae=fp16`."""

from hummingbird_edge.runtime.devices.backend import parse_by_stage
from hummingbird_edge.runtime.errors import RequestError

__all__ = ["LAPTOP", "graphs_for"]

LAPTOP = "unet=fp16+int8,vae=fp16+int8,text=int8"
"""float16 for GPUs, int8 for CPUs. The text encoder's int8 weights serve both."""

_GRAPHS = {
    "fp32": ("float32",),
    "bf16": ("float32",),
    "fp16": ("float16",),
    "int8": ("int8",),
    "auto": ("float32", "float16", "int8"),
}
"""bfloat16 is how an engine runs a float32 graph."""


def graphs_for(precision: str) -> dict[str, tuple[str, ...]]:
    """Return the precisions of each stage's graphs; stages not named stay float32.

    Raises RequestError for text that does not parse.
    """
    found = {}
    for stage, names in parse_by_stage("precision", precision, "fp32").items():
        graphs: list[str] = []
        for name in names.split("+"):
            if name.strip() not in _GRAPHS:
                raise RequestError(
                    f"--precision has {name.strip()!r}: choose from {', '.join(_GRAPHS)}, several "
                    f"with + between"
                )
            graphs += _GRAPHS[name.strip()]
        found[stage] = tuple(dict.fromkeys(graphs))
    return found
