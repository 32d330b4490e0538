"""Open-loop load over HTTP against a served model, mode beside mode."""
