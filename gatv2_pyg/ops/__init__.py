"""Attention as torch operators, and their mathematics in plain torch."""
