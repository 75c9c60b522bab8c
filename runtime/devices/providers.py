"""The devices a user can name, one entry each, and the order in which `auto` tries them.

To add an execution provider of ONNX Runtime, add its entry here. If it comes as a library to
register, name that in `plugins.py`; if it takes session options, set them in
`engines/onnxruntime.py`; if it needs a graph of its own, add a variant in `kernels/variant.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["AUTO", "PROVIDERS", "Provider"]

# Two packages of ONNX Runtime in one environment overwrite each other's files.
_REPLACE = "pip uninstall onnxruntime, then pip install {}"


@dataclass(frozen=True, slots=True)
class Provider:
    """What a device name stands for."""

    target: str
    """An execution provider of ONNX Runtime; empty where a catalogue decides, or for OpenVINO."""
    install: str = ""
    """What to do where it is missing."""
    engine: str = "onnxruntime"
    """`onnxruntime` or `openvino`."""
    has_int8: bool = False
    """Whether it multiplies 8-bit integers faster than floats; RDNA 3 does not."""
    has_adapters: bool = False
    """Whether it takes the option `device_id`: `dml:1` is the second adapter."""


PROVIDERS: Mapping[str, Provider] = {
    # Everywhere.
    "cpu": Provider("CPUExecutionProvider", has_int8=True),
    # GPUs on Windows.
    "dml": Provider(
        "DmlExecutionProvider",
        "it comes with this project on Windows, and is for Windows alone",
        has_adapters=True,
    ),
    # AMD GPUs on Linux.
    "migraphx": Provider(
        "MIGraphXExecutionProvider", _REPLACE.format("onnxruntime-migraphx"), has_adapters=True
    ),
    # AMD GPUs on Linux, with ONNX Runtime before 1.23.
    "rocm": Provider(
        "ROCMExecutionProvider", _REPLACE.format("onnxruntime-rocm"), has_adapters=True
    ),
    # Any GPU with Vulkan, Direct3D 12 or Metal.
    "webgpu": Provider("WebGpuExecutionProvider", "pip install onnxruntime-ep-webgpu"),
    # Windows ML: the provider that the maker of the GPU or NPU publishes in Windows' catalogue;
    # `winml:GPU` and `winml:NPU` choose between them, a GPU comes first otherwise.
    "winml": Provider(
        "",
        "on Windows 11, pip uninstall onnxruntime-directml, then "
        "pip install windowsml onnxruntime-windowsml",
    ),
    # OpenVINO itself, not ONNX Runtime's provider: `openvino:CPU`, `openvino:GPU`, `openvino:NPU`.
    "openvino": Provider("", "pip install openvino", engine="openvino", has_int8=True),
}
"""By the name a user types, in the order of `hb-run --list-devices`."""

AUTO = ("winml", "dml", "migraphx", "rocm", "openvino", "cpu")
"""`auto` tries these in order and takes the first that loads the stage."""
