"""A user's super-resolution model: an ONNX graph from anywhere, on ONNX Runtime's CPU or a device.

The usual form: one input (N, C, H, W) and one output (N, C, sH, sW), floats in [0, 1]; C is 3 for
RGB or 1 for luma. The file is not trusted: it may read no other file and brings no code.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hummingbird_edge.runtime.bundle.external_data import external_files
from hummingbird_edge.runtime.devices.backend import Backend
from hummingbird_edge.runtime.devices.cpu import usable_cores
from hummingbird_edge.runtime.devices.packages import import_onnxruntime
from hummingbird_edge.runtime.engines.loading import open_session
from hummingbird_edge.runtime.engines.onnxruntime import first_line
from hummingbird_edge.runtime.errors import BundleError, DeviceError, RequestError, device_error

__all__ = ["OnnxUpscaler"]

_MAX_BYTES = 1 << 30
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_FORM = "give an ONNX graph from (N, 3, H, W) to (N, 3, sH, sW), floats in [0, 1]"
_CHANNELS = (1, 3)
_ERRORS_ONLY = 3
_TRIAL = 64
"""Pixels along a side of a frame that is enough for a trial."""
_MAX_VALUE = 4.0
"""Of an output in [0, 1] with some overshoot; beyond it, values are in [0, 255]."""


class OnnxUpscaler:
    """Implements `media.upscaling.Upscaler`."""

    _compute: Callable[[Mapping[str, NDArray[Any]]], NDArray[Any]]

    def __init__(self, path: Path, device: str = "cpu") -> None:
        """Load the graph at `path`; raises RequestError where it is none of the usual form.

        `device` computes it, or DeviceError says why not.
        """
        self.path, self.name, self.device = path, path.name, device
        data = _read(path)
        self.sha256 = hashlib.sha256(data).hexdigest()
        session = _load(path, data)
        inputs, outputs = session.get_inputs(), session.get_outputs()
        forms = [(each.type, each.shape) for each in (*inputs, *outputs)]
        if (len(inputs), len(outputs)) != (1, 1):
            raise self._refused(f"it has {len(inputs)} inputs and {len(outputs)} outputs")
        for kind, shape in forms:
            if kind not in _TYPES or len(shape) != 4:
                raise self._refused(f"it has a {kind} of shape {_shape(shape)}")
        self._input, self._type = inputs[0].name, _TYPES[inputs[0].type]
        count, channels, *sides = (
            size if isinstance(size, int) else None for size in inputs[0].shape
        )
        self._channels, self._fixed = channels or 3, sides
        if self._channels not in _CHANNELS or count not in (None, 1):
            raise self._refused(f"its input is {_shape(inputs[0].shape)}")
        self._compute = lambda given: session.run(None, given)[0]
        if device != "cpu":
            backend = Backend.parse(device)
            backend.device.require_installed()
            self._compute = open_session(path, backend).run

    def try_out(self, width: int, height: int) -> None:
        """Raise RequestError or DeviceError where it would fail on frames of this size."""
        sides = [
            fixed or min(side, _TRIAL)
            for fixed, side in zip(self._fixed, (height, width), strict=True)
        ]
        self._check_size(width, height)
        self(np.full((*sides, 3), 128, np.uint8))

    def __call__(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a frame (H, W, 3) uint8 as (sH, sW, 3).

        Raises RequestError where the graph does not fit the frame, DeviceError where it fails.
        """
        if self._channels == 3:
            return self._run(frame)
        from PIL import Image

        luma, *chroma = Image.fromarray(frame).convert("YCbCr").split()
        large = Image.fromarray(self._run(np.asarray(luma)[..., None])[..., 0])
        planes = [each.resize(large.size, Image.Resampling.LANCZOS) for each in chroma]
        return np.asarray(Image.merge("YCbCr", [large, *planes]).convert("RGB"))

    def _run(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Run the graph on (H, W, C) uint8."""
        height, width = frame.shape[:2]
        self._check_size(width, height)
        given = (frame.astype(np.float32) / 255).transpose(2, 0, 1)[None].astype(self._type)
        try:
            made = np.asarray(self._compute({self._input: given}), np.float32)
        except DeviceError:
            raise
        except Exception as error:  # the library raises bare exceptions of several kinds
            raise device_error(
                error,
                f"the upscaler {self.path} failed on a frame of {width}x{height} "
                f"({first_line(error)}): give another one, or leave it out",
            ) from error
        self._check(made, (self._channels, height, width))
        pixels = np.clip(np.rint(made[0].transpose(1, 2, 0) * 255), 0, 255).astype(np.uint8)
        return np.ascontiguousarray(pixels)

    def _check_size(self, width: int, height: int) -> None:
        if any(
            wanted not in (None, side)
            for wanted, side in zip(self._fixed, (height, width), strict=True)
        ):
            raise RequestError(
                f"the upscaler {self.path} takes frames of {self._fixed[1] or 'any'}x"
                f"{self._fixed[0] or 'any'} alone, not {width}x{height}: give one with a free "
                f"height and width"
            )

    def _check(self, made: NDArray[np.float32], given: tuple[int, int, int]) -> None:
        """Raise RequestError where `made` is no larger picture of what was `given`, (C, H, W)."""
        channels, height, width = given
        scale = made.shape[2] / height if made.ndim == 4 else 0.0
        if made.shape != (1, channels, scale * height, scale * width) or scale < 1:
            found = f"it made {_shape(made.shape)} of {_shape((1, *given))}"
        elif not np.isfinite(made).all():
            found = "it made values that are NaN or infinite"
        elif np.abs(made).max() > _MAX_VALUE:
            found = f"it made values up to {np.abs(made).max():.3g}"
        else:
            return
        raise self._refused(found)

    def _refused(self, found: str) -> RequestError:
        return _refused(self.path, found)


def _read(path: Path) -> bytes:
    """Return the file's content; raises RequestError where it cannot be a graph."""
    try:
        if not path.is_file():
            raise RequestError(f"there is no file {path} for --upscaler: check the path")
        if path.stat().st_size > _MAX_BYTES:
            raise _refused(path, f"it has more than {_MAX_BYTES >> 20} MiB")
        others = external_files(path)
        data = path.read_bytes()
    except BundleError as error:
        raise _refused(path, "it is no ONNX graph") from error
    except OSError as error:
        raise RequestError(
            f"the upscaler {path} cannot be read ({error.strerror or error}): check the file"
        ) from error
    if others:
        raise _refused(path, "its weights are in other files, which are not read")
    return data


def _load(path: Path, data: bytes) -> Any:
    """Return a session on the CPU. The graph comes as bytes: it has no folder to read from."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.enable_cpu_mem_arena = False
    options.intra_op_num_threads = usable_cores()
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library raises bare exceptions of several kinds
        raise _refused(path, f"ONNX Runtime cannot load it: {first_line(error)}") from error


def _refused(path: Path, found: str) -> RequestError:
    return RequestError(f"{path} is no upscaler that can be used ({found}): {_FORM}")


def _shape(sizes: Sequence[object]) -> str:
    return f"({', '.join(str(size) for size in sizes)})"
