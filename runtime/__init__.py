"""Run a model bundle: NumPy and an inference engine, never PyTorch."""
