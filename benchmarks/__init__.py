"""Benchmarks of gatv2_pyg: run ``python -m benchmarks --help`` from the project's folder."""
