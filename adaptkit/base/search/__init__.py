"""Search algorithms that find hypotheses in the encoder's output."""
