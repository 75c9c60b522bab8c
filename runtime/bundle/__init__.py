"""A bundle on disk and its manifest."""
