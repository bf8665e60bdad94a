"""Model inputs: utterances with features or speech, tokens and tasks, in batches."""
