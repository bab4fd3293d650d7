"""Gradients and their modes."""
