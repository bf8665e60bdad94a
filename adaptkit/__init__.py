"""Parameter-efficient adaptation of ESPnet Conformer speech recognisers.

`Recognizer` transcribes audio; `load_base` and `load_experiment` open a base model and trained adapters.
Neither torch nor ESPnet is imported before one of them is asked for.
"""

from typing import Any

_PUBLIC = {  # name: module, and the name there
    "Recognizer": ("adaptkit.decoding.recognizer", "Recognizer"),
    "load_base": ("adaptkit.base.checkpoint", "load"),
    "load_experiment": ("adaptkit.model.load", "load_experiment"),
}


def __getattr__(name: str) -> Any:
    """Return a public name, which is looked up only when it is asked for."""
    if name == "__version__":
        from importlib import metadata

        return metadata.version("adaptkit")
    if name in _PUBLIC:
        from importlib import import_module

        module, attribute = _PUBLIC[name]
        return getattr(import_module(module), attribute)
    raise AttributeError(f"module 'adaptkit' has no attribute '{name}'")
