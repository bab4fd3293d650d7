"""Random calls through the public doors."""
