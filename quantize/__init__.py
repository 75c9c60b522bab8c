"""Smaller number formats for a bundle's graphs."""
