"""Base models: building, loading, adapter sites, padding and search; only this package imports ESPnet."""
