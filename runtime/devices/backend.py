"""Where and how each stage runs: what the user asked for, and what `auto` tries in which order.

--device auto                     one answer for every stage
--device unet=dml,vae=cpu         an answer a stage; the others are `auto`
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from hummingbird_edge.runtime.devices.device import Device, candidates
from hummingbird_edge.runtime.errors import DeviceError, RequestError

__all__ = [
    "MIN_SHARE",
    "PRECISIONS",
    "STAGE_NAMES",
    "Backend",
    "Placed",
    "backends",
    "parse_by_stage",
    "precisions_of",
]

STAGE_NAMES: Mapping[str, str] = {"text": "text_encoder", "unet": "unet", "vae": "vae_decoder"}
"""What a user calls the stages; `vae` is whatever decodes."""
MIN_SHARE = 0.5
"""Of a graph's nodes that a device should take to be worth its name."""
PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8")


@dataclass(frozen=True, slots=True)
class Backend:
    """One way to run a stage."""

    device: Device
    precision: str = "fp32"
    """Of the arithmetic: `fp32`, `bf16`, `fp16`, or `int8` for a quantized graph's products."""

    def __str__(self) -> str:
        return f"{self.device.name} {self.precision}"

    @property
    def graph(self) -> str:
        """The precision of the graph that it runs: OpenVINO narrows a float32 one itself."""
        if self.precision == "int8":
            return "int8"
        narrow = self.precision == "fp16" and self.device.engine == "onnxruntime"
        return "float16" if narrow else "float32"


def parse_by_stage(option: str, text: str, others: str = "auto") -> dict[str, str]:
    """Read `NAME` or `STAGE=NAME,...` of the command's `--option`: stage to name.

    Stages that are not named are what `others` says. Raises RequestError.
    """
    if "=" not in text:
        return dict.fromkeys(STAGE_NAMES.values(), text)
    found, named = dict.fromkeys(STAGE_NAMES.values(), others), set[str]()
    for part in text.split(","):
        stage, equals, name = (piece.strip() for piece in part.partition("="))
        if not equals or not name or stage not in STAGE_NAMES:
            raise RequestError(
                f"--{option} has {part.strip()!r}: write NAME, or STAGE=NAME,... "
                f"for the stages {', '.join(STAGE_NAMES)}"
            )
        if STAGE_NAMES[stage] in named:
            raise RequestError(f"--{option} names {stage} twice: name it once")
        named.add(STAGE_NAMES[stage])
        found[STAGE_NAMES[stage]] = name
    return found


def backends(
    stage: str, device: str, precision: str, graphs: Collection[str] = ("float32",)
) -> list[Backend]:
    """Return the ways to try for a stage, the best first.

    `graphs` are the precisions of the bundle's graphs of this stage that may be taken.
    Raises RequestError for names that are none, DeviceError where a device asked for is not
    installed or no device computes in the precision asked for.
    """
    if precision not in PRECISIONS:
        raise RequestError(
            f"there is no precision {precision!r}: choose from {', '.join(PRECISIONS)}"
        )
    devices = candidates(device)
    found = [
        Backend(known, kind)
        for known in devices
        for kind in precisions_of(stage, known, graphs)[: 1 if precision == "auto" else None]
        if precision in ("auto", kind)
    ]
    if not found:
        names = ", ".join(known.name for known in devices)
        has = ", ".join(sorted({str(graph) for graph in graphs}))
        hint = "choose another --precision or --device, or see hb-export quantize --help"
        if precision == "bf16" and find_spec("openvino") is None:
            hint = "OpenVINO computes a float32 graph in bf16: pip install openvino"
        raise DeviceError(
            f"{names} cannot compute {stage} in {precision}, the bundle has {has} graphs of it: "
            f"{hint}"
        )
    return found


def precisions_of(stage: str, device: Device, graphs: Collection[str]) -> tuple[str, ...]:
    """Return what a device can compute a stage in with these graphs, what `auto` takes first.

    The text encoder is a fiftieth of the work and its first token's activations are large: it
    stays in fp32 where there is such a graph, unless asked otherwise.
    """
    known = device.precisions() if "float32" in graphs else ()
    own = [
        precision
        for precision, graph, has in (
            ("int8", "int8", device.has_int8),
            ("fp16", "float16", device.engine == "onnxruntime"),
        )
        if graph in graphs and has
    ]
    # ONNX Runtime's CPU gains by neither: it computes much of both in float32, and converts.
    known = (*known, *own) if device.target == "CPUExecutionProvider" else (*own, *known)
    return tuple(reversed(known)) if stage == "text_encoder" else known


@dataclass(frozen=True, slots=True)
class Placed:
    """How a stage was run in the end."""

    backend: Backend
    share: float
    """Share of the graph's nodes that the device took, in [0, 1]."""
    why: str
    """`asked for`, `measured` or `first that works`."""
    tiles: int = 1
    """Into how many a decoder cuts a frame."""

    def __str__(self) -> str:
        tiles = f", in {self.tiles} tiles" if self.tiles > 1 else ""
        return f"{self.backend} ({self.why}, {100 * self.share:.0f} % of the nodes there{tiles})"

    def facts(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return {
            "device": self.backend.device.name,
            "precision": self.backend.precision,
            "share_on_device": round(self.share, 4),
            "why": self.why,
            "tiles": self.tiles,
        }
