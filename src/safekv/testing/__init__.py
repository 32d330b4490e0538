"""Contracts and fakes for authors of detectors and adapters."""
