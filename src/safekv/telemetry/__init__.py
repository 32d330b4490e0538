"""Metrics and logs, for the operator only."""
