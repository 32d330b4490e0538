"""The embedded engine: transformers' continuous batching on safekv's prefix cache."""
