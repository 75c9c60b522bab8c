"""A graph on a backend."""
