"""Execution providers that come as libraries of their own, registered with ONNX Runtime when asked.

webgpu      the package onnxruntime-ep-webgpu, where ONNX Runtime has no WebGPU built in
winml       what Windows ML's catalogue offers for this machine: the makers' own providers

They never appear in `get_available_providers()`; ONNX Runtime lists their devices instead.
Source: ONNX Runtime's plug-in execution provider API; Windows ML's `EpCatalog`.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from typing import Any

from hummingbird_edge.runtime.devices.packages import import_onnxruntime
from hummingbird_edge.runtime.errors import DeviceError

__all__ = ["PLUGINS", "has_plugin", "plugin_devices"]


def has_plugin(name: str) -> bool:
    """Tell whether the package that brings plug-in `name` is installed."""
    return name in PLUGINS and find_spec(PLUGINS[name][0]) is not None


def plugin_devices(name: str, kind: str | None = None) -> tuple[Any, ...]:
    """Register plug-in `name` and return its `OrtEpDevice`s, graphics before others.

    `kind` is `GPU` or `NPU`, for these alone. Raises DeviceError where the library does not load
    or finds no device.
    """
    found = [device for device in _all_devices(name) if kind is None or _kind(device) == kind]
    if not found:
        raise DeviceError(
            f"{PLUGINS[name][0]} is installed and finds no {kind or 'device'} for {name} here: "
            f"check the driver, or choose --device cpu"
        )
    found.sort(key=lambda device: _kind(device) != "GPU")
    # ONNX Runtime loads a graph on the devices of one provider.
    return tuple(device for device in found if device.ep_name == found[0].ep_name)


@cache
def _all_devices(name: str) -> tuple[Any, ...]:
    """Register a plug-in, once, and return all its devices; raises DeviceError."""
    onnxruntime = import_onnxruntime()
    package, libraries = PLUGINS[name]
    try:
        registered = dict(libraries())
        for provider, path in registered.items():
            onnxruntime.register_execution_provider_library(provider, path)
        known = onnxruntime.get_ep_devices()
        return tuple(device for device in known if _is_real(device, registered))
    except Exception as error:  # drivers and the library raise bare exceptions of several kinds
        line = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DeviceError(
            f"{name} comes with {package}, which does not load ({line}): update it and the driver"
        ) from error


def _kind(device: Any) -> str:
    """Return `CPU`, `GPU` or `NPU`."""
    return str(device.device.type).rpartition(".")[2].rpartition("_")[2]


def _is_real(device: Any, registered: Mapping[str, str]) -> bool:
    is_virtual = dict(device.ep_metadata).get("is_virtual", "0") not in ("0", "false")
    return device.ep_name in registered and not is_virtual


def _webgpu() -> Iterator[tuple[str, str]]:
    import onnxruntime_ep_webgpu as package

    yield package.get_ep_name(), package.get_library_path()


def _winml() -> Iterator[tuple[str, str]]:
    from windowsml import EpCatalog

    catalog = EpCatalog()
    for provider in catalog.find_all_providers():
        provider.ensure_ready()  # Windows fetches it where it is not there yet
        yield provider.name, provider.library_path


PLUGINS: Mapping[str, tuple[str, Callable[[], Iterator[tuple[str, str]]]]] = {
    "webgpu": ("onnxruntime_ep_webgpu", _webgpu),
    "winml": ("windowsml", _winml),
}
"""Device name to the package that brings the library, and how it names provider and path."""
