"""Kaldi data directories: tables, recordings, validation."""
