"""Benchmarks: every performance claim has one."""
