"""Proof that nothing leaks: two worlds, thresholds, colluding accounts, and claims."""
