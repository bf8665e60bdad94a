"""The adapter types: one file each, and nothing else in this folder."""
