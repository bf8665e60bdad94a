"""Decode a data directory into a Kaldi `text` file."""
