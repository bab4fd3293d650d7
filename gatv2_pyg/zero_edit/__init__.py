"""The layer in code that is not the user's own: in PyG's place, without an edit."""
