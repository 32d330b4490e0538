"""Selective sharing in unmodified vLLM. Importing this package imports neither vLLM nor torch."""
