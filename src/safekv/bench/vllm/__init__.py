"""Measurements of the vLLM plugin. Everything but the driver runs where vLLM is installed."""
