"""What a model reads: utterances with features or speech, tokens and tasks, in batches."""
