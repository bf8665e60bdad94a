"""A base model with its adapters: loss, encoder output and hypotheses."""
