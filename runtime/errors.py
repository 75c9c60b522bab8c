"""What can go wrong, as one small tree of exceptions.

    HummingbirdError          anything this project raises on purpose        exit code 1
    ├── RequestError          what was asked for makes no sense              exit code 2
    ├── BundleError           a bundle is missing, damaged or too new        exit code 1
    ├── DeviceError           a device is not there or cannot do the work    exit code 1
    ├── GenerationError       the model made NaN, black or constant frames   exit code 1
    ├── OutputError           a result cannot be written or read back        exit code 1
    └── CheckpointError       a checkpoint cannot be read or does not fit    exit code 1

Every message says what was wrong, what was found and what to do, in one sentence.
"""

__all__ = [
    "BundleError",
    "CheckpointError",
    "DeviceError",
    "GenerationError",
    "HummingbirdError",
    "OutputError",
    "RequestError",
]


class HummingbirdError(Exception):
    """Base of every error this project raises on purpose; `exit_code` is the command's status."""

    exit_code = 1


class RequestError(HummingbirdError):
    """Say that what was asked for makes no sense (0 frames, a size that does not divide)."""

    exit_code = 2


class BundleError(HummingbirdError):
    """Say that a model bundle is missing, damaged, of another format or unsafe."""


class DeviceError(HummingbirdError):
    """Say that a device asked for is absent, unknown or cannot run a stage."""


class GenerationError(HummingbirdError):
    """Say that the model produced NaN, black or constant frames."""


class OutputError(HummingbirdError):
    """Say that a result cannot be written, or a written one cannot be read back."""


class CheckpointError(HummingbirdError):
    """Say that a checkpoint cannot be read, is unsafe, or does not fit the model."""
