"""The way to a cluster of Ray, the same for all that use one."""

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hummingbird_edge.runtime.bundle.bundle import BUILTIN
from hummingbird_edge.runtime.errors import DeviceError, RequestError

__all__ = ["connect"]

_CONNECT_S = 10.0
_ADDRESS = re.compile(r"auto|local|[^/]+:[0-9]{1,5}")


def connect(address: str, cpus: int | None = None) -> None:
    """Connect this process to a cluster; raises DeviceError, RequestError.

    `local` starts one, with as many processors as there are or `cpus`.
    """
    if not _ADDRESS.fullmatch(address):
        raise RequestError(
            f"--ray is {address!r}: give HOST:PORT, auto or local, on a machine of the cluster"
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # reports to nobody
    # Else a thread that outlives the connection would have Ray start a cluster of its own.
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
    import ray

    own = {"include_dashboard": False, "num_cpus": cpus} if address == "local" else {}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _knock(address)
        with _folder_without_modules():
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        reason, *_ = str(error.__cause__ or error).splitlines() or [type(error).__name__]
        raise DeviceError(
            f"there is no Ray cluster at {address!r} ({reason.rstrip('.')}): start one with "
            f"ray start --head, or join it with ray start --address=HOST:PORT, on this machine"
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray takes it for itself


def _knock(address: str) -> None:
    """Raise OSError or OverflowError where nobody is at HOST:PORT: Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()


@contextmanager
def _folder_without_modules() -> Iterator[None]:
    """Be in another folder: Ray has its workers look for modules in the current one first."""
    old = Path.cwd()
    os.chdir(BUILTIN)
    try:
        yield
    finally:
        os.chdir(old)
