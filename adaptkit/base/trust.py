"""Decide whether a base model's configuration may name classes that adaptkit does not know.

ESPnet has classes whose options are files to unpickle, models to download or modules to import. A base model
from someone else could name one, so only those in the table of `base.build`, which do none of this, are built
unless the user trusts the configuration. An environment variable holds the trust, so that it also reaches the
processes of a server or of torchrun and the commands of a recipe.
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
_LIMITS = {  # environment variables of torch and huggingface_hub, and their values without trust
    "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",  # also where ESPnet calls torch.load(weights_only=False)
    "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": None,  # torch refuses to load anything with both
    "HF_HUB_OFFLINE": "1",
}


def is_config_trusted() -> bool:
    """Whether the user trusts the configurations of base models."""
    return os.environ.get(VARIABLE) == "1"


@contextmanager
def trusting(is_trusted: bool) -> Iterator[None]:
    """Trust configurations inside the block, in this process and those that it starts, or limit torch.load.

    Without trust, also none by the environment, torch.load reads tensors only and nothing is downloaded.
    """
    trusted = {VARIABLE: "1"} if is_trusted else {}
    with _environment(trusted or ({} if is_config_trusted() else _LIMITS)):
        yield


@contextmanager
def _environment(changes: dict[str, str | None]) -> Iterator[None]:
    """Change environment variables inside the block; None removes one."""
    before = {name: os.environ.get(name) for name in changes}
    _set(changes)
    try:
        yield
    finally:
        _set(before)


def _set(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
