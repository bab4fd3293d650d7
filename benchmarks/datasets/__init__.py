"""Data sets, on disk or generated."""
