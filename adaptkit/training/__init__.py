"""Train base models, adapters and new speakers."""
