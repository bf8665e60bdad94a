"""Tools for the corpora's `local/prepare.py` only: synthetic voices and sets of noises."""
