"""What all commands share: errors as one sentence and an exit code, never a traceback."""

import io
import os
import signal
import sys
import threading
from contextlib import suppress
from importlib.util import find_spec
from typing import Annotated

import typer

from hummingbird_edge.runtime.errors import DeviceError, HummingbirdError

__all__ = ["Version", "note", "printable", "require_modules", "run_command", "say"]

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
    _prepare_streams()
    if threading.current_thread() is threading.main_thread():  # others take no signals
        signal.signal(signal.SIGTERM, _end)
    try:
        status = app(prog_name=name, standalone_mode=False)
        if status == _INTERRUPTED:  # some releases of Typer turn Ctrl-C into a status
            raise KeyboardInterrupt
        sys.stdout.flush()
    except HummingbirdError as error:
        say(f"{name}: {printable(str(error))}")
        status = error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        say(f"\n{name}: stopped, {left}")
        status = _INTERRUPTED
    except MemoryError:
        say(f"{name}: out of memory: try fewer frames or a smaller size")
        status = 1
    except OSError as error:
        # A path too long for the system, a disk that fails, a pipe that was closed.
        say(f"{name}: the system refused a file or its output ({error})")
        status = 1
    except _UsageError as error:
        message = error.format_message().rstrip(".")  # type: ignore[attr-defined]
        say(f"{name}: {message}: see {name} --help")
        status = 2
    except BaseException:
        # An import that SIGTERM interrupts raises an ImportError of its own.
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
            raise
        say(f"{name}: terminated, {left}")
        status = _TERMINATED
    _drop_unwritten()
    sys.exit(status if isinstance(status, int) else 0)


def say(text: str) -> None:
    """Print a line on stderr; where that is closed or full, the work goes on without.

    It is one write: `print` has two where PYTHONUNBUFFERED is set, and what another process says on
    the same stream can come between.
    """
    if sys.stderr is None:  # it was never open
        return
    with suppress(OSError, ValueError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def note(text: str) -> None:
    """Print a note on stderr."""
    say(f"note: {printable(text)}")


def printable(text: str) -> str:
    """Replace control characters: a file from elsewhere must not command the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _prepare_streams() -> None:
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # it was closed before Python began
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))
        elif isinstance(stream, io.TextIOWrapper):
            # A redirected stream on Windows cannot take every letter of every prompt.
            stream.reconfigure(errors="backslashreplace")
    with suppress(OSError, ValueError):  # streams without descriptors, as in a notebook
        _keep_stdout()


def _keep_stdout() -> None:
    """Keep stdout to Python: what engines print on descriptor 1 goes to stderr, as in `--json`.

    It stays so: the C library may print what it holds back when the process ends.
    """
    old = sys.stdout
    if not isinstance(old, io.TextIOWrapper) or old.fileno() != 1:
        return
    errors = sys.stderr.fileno()
    old.flush()
    new = open(os.dup(1), "w", encoding=old.encoding, errors=old.errors, closefd=False)  # noqa: SIM115
    new.reconfigure(line_buffering=old.line_buffering, write_through=old.write_through)
    os.dup2(errors, 1)
    sys.stdout = new


def _drop_unwritten() -> None:
    """Drop what a full or closed stream did not take: else Python ends with its own status."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


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
