"""What every benchmark runs in: command-line options, sessions, kept units, environment."""
