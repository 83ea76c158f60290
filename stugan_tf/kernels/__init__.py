"""Convolutions and matrix products that run on the non-zeros of their kernel, on CPUs."""
