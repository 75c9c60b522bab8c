"""The devices that work on this machine, and the ways they have to run a stage."""

from collections.abc import Collection, Iterator

from hummingbird_edge.runtime.devices.backend import Backend, precisions_of
from hummingbird_edge.runtime.devices.device import Device
from hummingbird_edge.runtime.placement.probe import known_devices, probe

__all__ = ["backends_here", "working_devices"]


def working_devices() -> list[str]:
    """Return the name of every device that works here."""
    return [name for name in known_devices() if probe(name).works]


def backends_here(stage: str, graphs: Collection[str]) -> Iterator[Backend]:
    """Yield every device that works here in every precision that it has for these graphs.

    The text encoder is left in float32 or int8, as the runtime leaves it.
    """
    for name in working_devices():
        device = Device.parse(name)
        for precision in precisions_of(stage, device, graphs):
            if stage != "text_encoder" or precision in ("fp32", "int8"):
                yield Backend(device, precision)
