"""What all commands share: errors as one sentence and an exit code, never a traceback."""

import io
import signal
import sys
import threading
from importlib.util import find_spec
from typing import Annotated

import typer

from hummingbird_edge.runtime.errors import DeviceError, HummingbirdError

__all__ = ["Version", "require_modules", "run_command"]

_INTERRUPTED = 130
"""The status by which a shell knows that Ctrl-C ended a program."""
_TERMINATED = 143
"""Likewise for SIGTERM, which the system sends when it shuts down."""
_UsageError: type[Exception] = typer.BadParameter.__base__  # type: ignore[assignment]
"""Click's own class, wherever this Typer keeps Click."""


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(version("hummingbird-edge"))
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True),
]


def run_command(app: typer.Typer, name: str, left: str = "nothing half-written is left") -> None:
    """Run an application and exit: 0, 1 (an error of ours), 2 (wrong usage), 130 (Ctrl-C).

    `left` says what Ctrl-C leaves behind.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A redirected stream on Windows cannot take every letter of every prompt.
            stream.reconfigure(errors="backslashreplace")
    if threading.current_thread() is threading.main_thread():  # others take no signals
        signal.signal(signal.SIGTERM, _end)
    try:
        status = app(prog_name=name, standalone_mode=False)
        if status == _INTERRUPTED:  # some releases of Typer turn Ctrl-C into a status
            raise KeyboardInterrupt
    except HummingbirdError as error:
        print(f"{name}: {error}", file=sys.stderr)
        status = error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        print(f"\n{name}: stopped, {left}", file=sys.stderr)
        status = _INTERRUPTED
    except MemoryError:
        print(f"{name}: out of memory: try fewer frames or a smaller size", file=sys.stderr)
        status = 1
    except OSError as error:
        # A path too long for the system, a disk that fails, a pipe that was closed.
        print(f"{name}: the system refused a file or its output ({error})", file=sys.stderr)
        status = 1
    except _UsageError as error:
        message = error.format_message().rstrip(".")  # type: ignore[attr-defined]
        print(f"{name}: {message}: see {name} --help", file=sys.stderr)
        status = 2
    except BaseException:
        # An import that SIGTERM interrupts raises an ImportError of its own.
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
            raise
        print(f"{name}: terminated, {left}", file=sys.stderr)
        status = _TERMINATED
    sys.exit(status if isinstance(status, int) else 0)


class _Terminated(BaseException):
    """Raised by SIGTERM, so that what is half-written is removed on the way out."""


def _end(signum: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
    raise _Terminated


def require_modules(extra: str, *modules: str) -> None:
    """Raise DeviceError where a command needs modules that only an extra installs."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise DeviceError(
            f"this needs {', '.join(missing)}, not installed: in a clone of this project, "
            f'pip install ".[{extra}]"'
        )
