"""The model's hot operators, one per file: the maths, its source, the PyTorch form, its lowerings.

`fused_*` are rewrites of exported graphs for engines that have a single node for a kernel.
"""
