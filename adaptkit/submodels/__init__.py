"""Submodels: the per-task weights of trained adapters, on disk and in memory."""
