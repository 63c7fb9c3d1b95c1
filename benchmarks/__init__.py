"""Measurements of the library: each module runs by itself, e.g. ``python -m benchmarks.engine``."""
