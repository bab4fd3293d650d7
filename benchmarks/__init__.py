"""Benchmarks of gatv2_pyg: run ``python -m benchmarks --help`` from the project's folder.

The main one is ``cora``. Each room imports from those below it alone:

- ``studies`` (what dynamic attention buys) and ``cost`` (speed, memory, scaling);
- ``layers`` (who is compared, and the networks) and ``datasets``;
- ``harness`` (options, sessions, clocks and fresh processes, result files and pages).
"""
