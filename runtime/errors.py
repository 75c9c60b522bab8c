"""What can go wrong, as one small tree of exceptions.

    HummingbirdError          anything this project raises on purpose        exit code 1
    ├── RequestError          a request that makes no sense                  exit code 2
    ├── BundleError           a bundle is missing, damaged or too new        exit code 1
    ├── DeviceError           a device is not there or cannot do the work    exit code 1
    │   └── OutOfMemoryError  its memory does not suffice                    exit code 1
    ├── GenerationError       the model made NaN, black or constant frames   exit code 1
    ├── OutputError           a result cannot be written or read back        exit code 1
    ├── CheckpointError       a checkpoint cannot be read or does not fit    exit code 1
    └── HubError              the Hugging Face hub cannot or will not serve  exit code 1

Every message says what was wrong, what was found and what to do, in one sentence.
"""

__all__ = [
    "BundleError",
    "CheckpointError",
    "DeviceError",
    "GenerationError",
    "HubError",
    "HummingbirdError",
    "HummingbirdWarning",
    "OutOfMemoryError",
    "OutputError",
    "RequestError",
    "device_error",
]


class HummingbirdError(Exception):
    """Base of every error this project raises on purpose; `exit_code` is the command's status."""

    exit_code = 1


class HummingbirdWarning(UserWarning):
    """Warn of something unexpected: a prompt was cut, a device was skipped."""


class RequestError(HummingbirdError):
    """Say that a request makes no sense (0 frames, a size that does not divide)."""

    exit_code = 2


class BundleError(HummingbirdError):
    """Say that a model bundle is missing, damaged, of another format or unsafe."""


class DeviceError(HummingbirdError):
    """Say that a requested device is absent, unknown or cannot run a stage."""


class OutOfMemoryError(DeviceError):
    """Say that a device has too little memory for a stage at this size."""


class GenerationError(HummingbirdError):
    """Say that the model produced NaN, black or constant frames."""


class OutputError(HummingbirdError):
    """Say that a result cannot be written, or a written one cannot be read back."""


class CheckpointError(HummingbirdError):
    """Say that a checkpoint cannot be read, is unsafe, or does not fit the model."""


class HubError(HummingbirdError):
    """Say that the Hugging Face hub cannot be reached, or refuses a repository or a file."""


_OUT_OF_MEMORY = (
    "bad_alloc",
    "alloc memory",  # ONNX Runtime: Failed to allocate memory for requested buffer
    "allocate memory",
    "out of memory",
    "cannot allocate",
    "could not allocate",
    "8007000e",  # E_OUTOFMEMORY, of DirectML
    "cl_out_of_resources",
    "cl_mem_object_allocation_failure",
)


def device_error(found: Exception, sentence: str) -> DeviceError:
    """Return a DeviceError that says `sentence`, an OutOfMemoryError where `found` is one."""
    text = str(found).lower()
    is_memory = isinstance(found, MemoryError) or any(part in text for part in _OUT_OF_MEMORY)
    return OutOfMemoryError(sentence) if is_memory else DeviceError(sentence)
