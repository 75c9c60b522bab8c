"""What both commands share: errors as one sentence and an exit code, never a traceback."""

import sys
from typing import TYPE_CHECKING

from hummingbird_edge.runtime.errors import HummingbirdError

if TYPE_CHECKING:
    import typer

__all__ = ["run_command"]

_INTERRUPTED = 130
"""The status by which a shell knows that Ctrl-C ended a program."""


def run_command(app: "typer.Typer", name: str) -> None:
    """Run a Typer application and exit: 0, 1 (an error of ours), 2 (wrong usage) or 130 (Ctrl-C)."""
    import click

    try:
        status = app(prog_name=name, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except HummingbirdError as error:
        print(f"{name}: {error}", file=sys.stderr)
        status = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        print(f"\n{name}: stopped, nothing was written", file=sys.stderr)
        status = _INTERRUPTED
    except MemoryError:
        print(f"{name}: out of memory: try fewer frames or a smaller size", file=sys.stderr)
        status = 1
    sys.exit(status if isinstance(status, int) else 0)
