"""What can run a stage: a device with a precision, as requested or as `auto` tries them.

--device auto                     one answer for every stage
--device unet=dml,vae=cpu         an answer for each; the others are `auto`
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from hummingbird_edge.runtime.devices.device import Device, candidates
from hummingbird_edge.runtime.devices.precision import Precision
from hummingbird_edge.runtime.errors import DeviceError, RequestError

__all__ = ["STAGE_NAMES", "Backend", "backends", "parse_by_stage", "precisions_of"]

STAGE_NAMES: Mapping[str, str] = {"text": "text_encoder", "unet": "unet", "vae": "vae_decoder"}
"""What a user calls the stages; `vae` is whichever decoder runs."""
_CHOICES = ("auto", *(precision.value for precision in Precision))


@dataclass(frozen=True, slots=True)
class Backend:
    """A device, the precision it computes in, and how many of the CPU's threads it may use."""

    device: Device
    precision: Precision = Precision.FP32
    threads: int | None = None
    """At most; None for as many as the engine takes by itself."""

    @classmethod
    def parse(cls, device: str, precision: str = "fp32") -> "Backend":
        """Return the backend of two names; raises RequestError for a name that is unknown."""
        return cls(Device.parse(device), _precision(precision))

    def __str__(self) -> str:
        name = f"{self.device.name} {self.precision}"
        if self.threads is None:
            return name
        return f"{name}, {self.threads} {'thread' if self.threads == 1 else 'threads'}"

    @property
    def graph(self) -> str:
        """The precision of the graph that it runs: OpenVINO narrows a float32 graph itself."""
        if self.precision is Precision.INT8:
            return Precision.INT8.graph
        narrow = self.precision is Precision.FP16 and self.device.engine == "onnxruntime"
        return (Precision.FP16 if narrow else Precision.FP32).graph

    @property
    def arithmetic(self) -> Precision:
        """The precision of everything that is not quantized."""
        return self.device.precisions()[0] if self.precision is Precision.INT8 else self.precision


def _precision(name: str) -> Precision:
    try:
        return Precision(name)
    except ValueError:
        raise RequestError(
            f"there is no precision {name!r}: choose from {', '.join(_CHOICES)}"
        ) from None


def parse_by_stage(option: str, text: str, others: str = "auto") -> dict[str, str]:
    """Read `NAME` or `STAGE=NAME,...` of the command's `--option`: stage to name.

    Stages that are not named get `others`. Raises RequestError.
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
    """Return the backends to try for a stage, the best first.

    `graphs` are the precisions of the bundle's graphs of this stage that may be used. Raises
    RequestError for unknown names, DeviceError where the requested device is not installed or no
    device computes in the requested precision.
    """
    wanted = None if precision == "auto" else _precision(precision)
    devices = candidates(device)
    found = [
        Backend(known, kind)
        for known in devices
        for kind in precisions_of(stage, known, graphs)[: 1 if wanted is None else None]
        if wanted in (None, kind)
    ]
    if not found:
        names = ", ".join(known.name for known in devices)
        has = ", ".join(sorted({str(graph) for graph in graphs}))
        hint = "choose another --precision or --device, or see hb-export quantize --help"
        if wanted is Precision.BF16 and find_spec("openvino") is None:
            hint = "OpenVINO computes a float32 graph in bf16: pip install openvino"
        raise DeviceError(
            f"{names} cannot compute {stage} in {precision}, the bundle has {has} graphs of it: "
            f"{hint}"
        )
    return found


def precisions_of(stage: str, device: Device, graphs: Collection[str]) -> tuple[Precision, ...]:
    """Return the precisions in which a device can compute a stage with these graphs, best first.

    The text encoder is a fiftieth of the work and its first token's activations are large: it
    stays in fp32 where there is such a graph, unless another precision is requested.
    """
    known = device.precisions() if Precision.FP32.graph in graphs else ()
    own = [
        precision
        for precision, has in (
            (Precision.INT8, device.has_int8),
            (Precision.FP16, device.engine == "onnxruntime"),
        )
        if precision.graph in graphs and has
    ]
    # ONNX Runtime's CPU gains by neither: it computes much of both in float32, and converts.
    known = (*known, *own) if device.target == "CPUExecutionProvider" else (*own, *known)
    return tuple(reversed(known)) if stage == "text_encoder" else known
