"""A base model and adapters as one thing: loss, encoder output, hypotheses."""
