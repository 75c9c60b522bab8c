"""The model's hot operators, one a file: the maths, its source, and the PyTorch form in use."""
