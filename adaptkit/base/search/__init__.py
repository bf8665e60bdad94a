"""How hypotheses are found in what leaves the encoder."""
