"""Turn checkpoints into model bundles."""
