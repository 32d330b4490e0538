"""What a vLLM server loads. Importing this package imports neither vLLM nor torch."""
