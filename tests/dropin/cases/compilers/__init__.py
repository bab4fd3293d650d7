"""What traces or compiles a layer."""
