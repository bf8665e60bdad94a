"""The base model: building, loading, sites, padding and search; the only package that imports ESPnet."""
