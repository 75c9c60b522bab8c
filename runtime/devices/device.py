"""Where a stage can run: a device by the name that a user types, such as `cpu` or `dml:1`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

from hummingbird_edge.runtime.devices.packages import import_onnxruntime, import_openvino
from hummingbird_edge.runtime.devices.plugins import has_plugin
from hummingbird_edge.runtime.devices.precision import Precision
from hummingbird_edge.runtime.devices.providers import AUTO, PROVIDERS
from hummingbird_edge.runtime.errors import DeviceError, RequestError

__all__ = ["Device", "candidates"]


@dataclass(frozen=True, slots=True)
class Device:
    """One engine and where it computes."""

    name: str
    """As the user types it."""
    engine: str
    """`onnxruntime` or `openvino`."""
    target: str
    """An execution provider of ONNX Runtime, or a device of OpenVINO."""
    adapter: int | None = None
    """Which of several graphics adapters, where the provider asks."""
    kind: str | None = None
    """`GPU` or `NPU`, where a catalogue has providers for both."""

    @classmethod
    def parse(cls, name: str) -> "Device":
        """Return the device called `name`; raises RequestError for a name that is none."""
        engine, _, target = name.partition(":")
        if engine == "openvino" and re.fullmatch(r"|CPU|(GPU|NPU)(\.[0-9]+)?", target):
            return cls(name, "openvino", target or "CPU")
        known = PROVIDERS.get(engine)
        if known is not None and known.has_adapters and re.fullmatch(r"[0-9]+", target, re.ASCII):
            return cls(name, "onnxruntime", known.target, int(target))
        if engine == "winml" and target in ("GPU", "NPU"):
            return cls(name, "onnxruntime", PROVIDERS["winml"].target, kind=target)
        if name not in PROVIDERS:
            names = ", ".join(["auto", *PROVIDERS])
            raise RequestError(f"there is no device called {name!r}: choose from {names}")
        return cls(name, "onnxruntime", PROVIDERS[name].target)

    @property
    def family(self) -> str:
        """The name without an adapter or target: what a bundle's variants list."""
        return self.name.partition(":")[0]

    @property
    def needs_proof(self) -> bool:
        """Whether it depends on a driver that may not work; CPUs do not."""
        return self.target not in ("CPUExecutionProvider", "CPU")

    @property
    def compiles_for_cpu(self) -> bool:
        """Whether it runs on the CPU, and compiles a graph for seconds first."""
        return self.target == "CPU"

    def precisions(self) -> tuple[Precision, ...]:
        """Return the arithmetic it has for a float32 graph, the fastest first, `fp32` last.

        ONNX Runtime computes as the graph says. OpenVINO can be told to compute in less.
        """
        return _openvino_precisions(self.target) if self.engine == "openvino" else (Precision.FP32,)

    @property
    def has_int8(self) -> bool:
        """Whether it multiplies 8-bit integers faster than floats."""
        return PROVIDERS[self.family].has_int8

    def require_installed(self) -> None:
        """Raise DeviceError where the engine or its provider is not installed."""
        if self.engine == "openvino":
            if find_spec("openvino") is None:
                raise DeviceError(
                    f"device {self.name} needs OpenVINO, which is not installed: "
                    f"pip install openvino, or choose --device cpu"
                )
            return
        onnxruntime = import_onnxruntime()
        available = onnxruntime.get_available_providers()
        if self.target not in available and not has_plugin(self.family):
            raise DeviceError(
                f"device {self.name} needs {self.target or 'Windows ML'}, the installed ONNX "
                f"Runtime {onnxruntime.__version__} has {', '.join(available)}: "
                f"{PROVIDERS[self.family].install}"
            )

    def require_listed(self, targets: Sequence[str]) -> None:
        """Raise DeviceError where it is none of OpenVINO's `targets` here."""
        if self.target.split(".")[0] not in {known.split(".")[0] for known in targets}:
            names = " or ".join(f"openvino:{known}" for known in targets)
            raise DeviceError(
                f"{self.name} was requested and OpenVINO has {', '.join(targets)}: check the "
                f"driver, or choose --device {names}"
            )

    @property
    def is_plugin(self) -> bool:
        """Whether its provider is a library to register, not built into ONNX Runtime."""
        built_in = self.target in import_onnxruntime().get_available_providers()
        return not built_in and has_plugin(self.family)


@cache
def _openvino_precisions(target: str) -> tuple[Precision, ...]:
    try:
        known = import_openvino().Core().get_property(target, "OPTIMIZATION_CAPABILITIES")
    except (ImportError, OSError, RuntimeError):
        return (Precision.FP32,)  # loading the stage will say what is wrong
    is_gpu = not target.startswith("CPU")
    fast = {Precision.BF16: "BF16" in known, Precision.FP16: "FP16" in known and is_gpu}
    return (*(precision for precision, has in fast.items() if has), Precision.FP32)


def candidates(name: str) -> list[Device]:
    """Return the devices to try for `name`: the one named, or all installed ones for `auto`."""
    if name != "auto":
        device = Device.parse(name)
        device.require_installed()
        return [device]
    found = []
    for known in AUTO:
        device = Device.parse(known)
        try:
            device.require_installed()
        except DeviceError:
            continue
        found.append(device)
    return found
