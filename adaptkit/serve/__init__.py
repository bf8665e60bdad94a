"""A server: audio and a speaker's name come in over HTTP, the text goes out."""
