"""What torch and PyG do with a layer as a module."""
