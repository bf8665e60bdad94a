"""Parameter-efficient adaptation of ESPnet Conformer speech recognisers."""


def __getattr__(name: str) -> str:
    """Return `__version__`, which is looked up only when it is asked for."""
    if name != "__version__":
        raise AttributeError(f"module 'adaptkit' has no attribute '{name}'")
    from importlib import metadata

    return metadata.version("adaptkit")
