"""Adapters; each alone knows its engine's types."""
