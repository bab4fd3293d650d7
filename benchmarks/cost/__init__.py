"""What the layer costs: speed, memory, scaling."""
