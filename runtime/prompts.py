"""Prompts in a file."""

from pathlib import Path

from hummingbird_edge.runtime.errors import RequestError

__all__ = ["read_prompts"]


def read_prompts(path: Path) -> list[str]:
    """Return the prompts in a text file, one a line.

    Raises RequestError for a file that cannot be read or holds none.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"the prompts in {path} cannot be read: {error}") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise RequestError(f"{path} holds no prompt: write one a line")
    return prompts
