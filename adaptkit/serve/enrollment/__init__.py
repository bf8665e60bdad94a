"""Enrollment by voice: recordings that speakers make with the server, and Submodels trained on them."""
