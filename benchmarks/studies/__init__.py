"""What dynamic attention buys: accuracy studies."""
