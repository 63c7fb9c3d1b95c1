"""Agents to run, read and learn from; see `examples/README.md`."""
