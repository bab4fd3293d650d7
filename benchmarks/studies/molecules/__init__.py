"""Regression on molecules, bond features included."""
