"""Training steps on sampled neighbourhoods."""
