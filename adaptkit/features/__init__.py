"""Log-mel filterbanks and their statistics."""
