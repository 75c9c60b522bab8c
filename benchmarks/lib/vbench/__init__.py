"""VBench: its prompts, protocol, scores, and this project's own judge in the same frame.

Huang et al. 2024 (arXiv:2311.17982); the official code is github.com/Vchitect/VBench.
"""
