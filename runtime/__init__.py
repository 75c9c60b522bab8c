"""Run a model bundle: NumPy and ONNX Runtime, never PyTorch."""
