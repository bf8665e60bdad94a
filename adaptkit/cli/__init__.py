"""The command line; `main` puts the groups together."""
