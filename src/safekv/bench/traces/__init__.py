"""Traces of real serving, or made up: which requests began with the same blocks, and when.

No text.
"""

from safekv.bench.traces.read import read_trace
from safekv.bench.traces.request import Request, Trace
from safekv.bench.traces.synthetic import synthetic

__all__ = ["Request", "Trace", "read_trace", "synthetic"]
