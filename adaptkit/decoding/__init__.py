"""Decoding of data directories into Kaldi `text` files."""
