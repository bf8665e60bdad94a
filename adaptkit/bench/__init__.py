"""Benchmarks of training, augmentation, decoding and serving on this machine."""
