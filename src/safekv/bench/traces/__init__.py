"""Traces of real serving: which requests began with the same blocks, and when. No text."""

from safekv.bench.traces.read import read_trace
from safekv.bench.traces.request import Request, Trace

__all__ = ["Request", "Trace", "read_trace"]
