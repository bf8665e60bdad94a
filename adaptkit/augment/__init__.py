"""Augmentation of training data: masks and warps of features, noise and rooms on speech, and their mix."""
