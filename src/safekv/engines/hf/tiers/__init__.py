"""Performs what the tiers decide: device memory, host memory and sealed files on disk."""
