"""Parameter-efficient adaptation of ESPnet Conformer speech recognisers.

`adapt` trains adapters, `enroll` adds speakers, `Recognizer` transcribes audio, `score` compares texts;
`load_base` and `load_experiment` open a base model and trained adapters. What a user can mend is raised as an
`AdaptkitError`, with the message that the commands show. Neither torch nor ESPnet is imported before one of
these names is asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adaptkit.base.checkpoint import load as load_base
    from adaptkit.decoding.recognizer import Recognizer
    from adaptkit.errors import AdaptkitError
    from adaptkit.model.load import load_experiment
    from adaptkit.scoring.wer import score
    from adaptkit.training.adapt import adapt, enroll

    __version__: str

__all__ = ["AdaptkitError", "Recognizer", "adapt", "enroll", "load_base", "load_experiment", "score"]

_PUBLIC = {  # name: module, and the name there
    "AdaptkitError": ("adaptkit.errors", "AdaptkitError"),
    "Recognizer": ("adaptkit.decoding.recognizer", "Recognizer"),
    "adapt": ("adaptkit.training.adapt", "adapt"),
    "enroll": ("adaptkit.training.adapt", "enroll"),
    "load_base": ("adaptkit.base.checkpoint", "load"),
    "load_experiment": ("adaptkit.model.load", "load_experiment"),
    "score": ("adaptkit.scoring.wer", "score"),
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


def __dir__() -> list[str]:
    """List the public names, for completion."""
    return sorted([*globals(), *__all__])
