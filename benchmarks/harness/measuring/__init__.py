"""Clocks and fresh processes."""
