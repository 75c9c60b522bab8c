"""Progress on stderr."""

import sys

__all__ = ["show_progress"]


def show_progress(done: int, count: int) -> None:
    """Count on stderr on one line; a pipe or a log file gets ten lines in all."""
    in_place = sys.stderr.isatty()
    if in_place or done == count or done * 10 // count > (done - 1) * 10 // count:
        end = "\r" if in_place and done < count else "\n"
        sys.stderr.write(f"{done}/{count}{end}")
        sys.stderr.flush()
