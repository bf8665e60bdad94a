"""Data augmentation: SpecAugment on features, noise and reverberation on speech, and mixes of both."""
