"""Word and character error rates, with confidence intervals."""
