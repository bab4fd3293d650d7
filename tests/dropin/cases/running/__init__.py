"""Training, and several processes and threads."""
