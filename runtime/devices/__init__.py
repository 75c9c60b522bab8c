"""Devices, their precisions and the packages that bring them."""
