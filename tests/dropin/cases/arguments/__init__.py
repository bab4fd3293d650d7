"""What a layer is called with, right and wrong."""
