"""Decide whether a base model's configuration may name classes that adaptkit does not know.

ESPnet has classes whose options are files to unpickle, models to download or modules to import. A base
model from someone else could name one, so only the classes in the table of `base.classes`, which do none
of this, are built unless the user trusts the configuration. An environment variable holds this decision,
so that it also applies to the processes of a server or of torchrun and to the commands of a recipe.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE = "ADAPTKIT_TRUST_CONFIG"
RISKS = "classes of ESPnet outside adaptkit's table may run code, unpickle files and download models"
REMEDY = (
    f"if you trust whoever wrote the model, run 'export {VARIABLE}=1' and the same command again, or put "
    "--trust-config after 'adaptkit'"
)
_OFFLINE = "HF_HUB_OFFLINE"
_LIMITS = {  # environment variables of torch and huggingface_hub, and their values without trust
    "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",  # also where ESPnet calls torch.load(weights_only=False)
    "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": None,  # torch refuses to load anything with both
    _OFFLINE: "1",
}
_replaced: dict[str, str | None] = {}  # earlier values of variables set by `trusting`


def is_config_trusted() -> bool:
    """Whether the user trusts the configurations of base models."""
    return os.environ.get(VARIABLE) == "1"


@contextmanager
def trusting(is_trusted: bool) -> Iterator[None]:
    """Trust configurations inside the block, in this process and those that it starts, or limit torch.load.

    Without trust, given here or by the environment, torch.load reads only tensors and nothing is downloaded.
    """
    trusted = {VARIABLE: "1"} if is_trusted else {}
    with _environment(trusted or ({} if is_config_trusted() else _LIMITS)) as before:
        _replaced.update(before)
        try:
            yield
        finally:
            _replaced.clear()


@contextmanager
def downloading() -> Iterator[None]:
    """Let huggingface_hub download inside the block, unless the user's own environment forbids it."""
    from huggingface_hub import constants

    chosen = _replaced.get(_OFFLINE) if _OFFLINE in _replaced else os.environ.get(_OFFLINE)
    before = constants.HF_HUB_OFFLINE  # read from the environment on import
    constants.HF_HUB_OFFLINE = (chosen or "").upper() in ("1", "ON", "YES", "TRUE")
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def _environment(changes: dict[str, str | None]) -> Iterator[dict[str, str | None]]:
    """Change environment variables inside the block (None removes one), and yield their earlier values."""
    before = {name: os.environ.get(name) for name in changes}
    _set(changes)
    try:
        yield before
    finally:
        _set(before)


def _set(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
