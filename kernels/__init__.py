"""The model's hot operators, one a file: the maths, its source, the PyTorch form, its lowerings.

`fused_*` are rewrites of exported graphs for the engines that have one node for a kernel.
"""
