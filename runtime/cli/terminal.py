"""What `hb-run` says on stderr while it works."""

import sys

__all__ = ["note", "printable", "say"]


def note(text: str) -> None:
    say(f"note: {text}")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Replace control characters: a file from elsewhere must not command the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
