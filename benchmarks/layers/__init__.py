"""The layers that are compared, and the networks made of them."""
