"""Who hears what happens while stages load and run."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

from hummingbird_edge.runtime.errors import HummingbirdWarning

__all__ = ["Notices"]

Listener = Callable[[str], None]


def _ignore(text: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Notices:
    """Two listeners, each called with one sentence."""

    note: Listener = _ignore
    """Hears what takes long before it starts."""
    warn: Listener = _ignore
    """Receives warnings of anything unexpected."""

    @classmethod
    def for_user(cls, notify: Listener | None) -> "Notices":
        """Return notices that `notify` hears; without it, warnings of Python's and no notes.

        Each warning is given once, however many videos it concerns.
        """
        return cls(notify or _ignore, _once(notify or _warn))


def _once(listener: Listener) -> Listener:
    """Return `listener`, but for what it has heard before."""
    heard = set[str]()

    def tell(text: str) -> None:
        if text not in heard:
            heard.add(text)
            listener(text)

    return tell


def _warn(text: str) -> None:
    warnings.warn(text, HummingbirdWarning, stacklevel=2)
