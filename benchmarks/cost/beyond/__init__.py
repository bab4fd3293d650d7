"""What PyG has no layer for: batches on one graph, biases of edges, dense batches."""
