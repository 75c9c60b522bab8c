"""Videos and previews."""
