"""Clips: encoded, curated, drawn in batches."""
