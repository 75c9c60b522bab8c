"""Smaller and faster number formats for a bundle."""
