"""Submodels, what one task owns of trained adapters, on disk and in memory."""
