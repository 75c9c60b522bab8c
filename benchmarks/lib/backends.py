"""The devices that work on this machine, and the backends they offer for a stage."""

from collections.abc import Collection, Iterator

from hummingbird_edge.runtime.devices.backend import Backend, precisions_of
from hummingbird_edge.runtime.devices.device import Device
from hummingbird_edge.runtime.placement.probe import known_devices, probe

__all__ = ["working_backends", "working_devices"]


def working_devices() -> list[str]:
    """Return the name of every device that works here."""
    return [name for name in known_devices() if probe(name).works]


def working_backends(stage: str, graphs: Collection[str]) -> Iterator[Backend]:
    """Yield every working device in every precision that it offers for graphs of these precisions.

    The text encoder is limited to float32 and int8, as in the runtime.
    """
    for name in working_devices():
        device = Device.parse(name)
        for precision in precisions_of(stage, device, graphs):
            if stage != "text_encoder" or precision in ("fp32", "int8"):
                yield Backend(device, precision)
