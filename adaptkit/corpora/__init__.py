"""What only the corpora's own `local/prepare.py` use: synthetic voices and sets of noises."""
