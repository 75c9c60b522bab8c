"""The model's hot operators, one a file."""
