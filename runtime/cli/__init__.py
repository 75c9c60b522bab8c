"""The command `hb-run`."""

from hummingbird_edge.runtime.cli.app import app, main

__all__ = ["app", "main"]
