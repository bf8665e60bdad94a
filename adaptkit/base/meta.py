"""Read meta.yaml, which names the files of an ESPnet archive (espnet2/main_funcs/pack_funcs.py)."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from adaptkit.config import read_yaml
from adaptkit.errors import AdaptkitError, CheckpointError

META = "meta.yaml"
_LEVELS = 4  # most folders between a model file and the root of its archive


def read_meta(meta: Path) -> dict[str, str]:
    """Return the files that a meta.yaml names, by their keys in `yaml_files` and `files`."""
    content, named = read_yaml(meta), {}
    for section in ("yaml_files", "files"):
        part = content.get(section)
        if not isinstance(part, Mapping) or not all(isinstance(name, str) for name in part.values()):
            raise CheckpointError(f"{meta}: {section}: expected names of files, as ESPnet writes them")
        named |= {str(key): name for key, name in part.items()}
    return named


def existing(meta: Path, named: Mapping[str, str], key: str) -> Path:
    """Return the path of a file that a meta.yaml names by a key, which must exist."""
    path = inside(meta, named[key])
    if not os.path.isfile(path):
        raise CheckpointError(
            f"{meta}: {key}: {path} does not exist; fetch or unpack the whole archive again"
        )
    return path


def inside(meta: Path, name: str | None) -> Path | None:
    """Return the path of a file that a meta.yaml names, which must be within the archive."""
    if name is None:
        return None
    if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise CheckpointError(f"{meta}: names {name!r}, a path outside the archive; write one within it")
    return meta.parent / name


def find_meta(config: Path) -> Path | None:
    """Find the meta.yaml, some folders above a configuration, that names it."""
    config = Path(os.path.abspath(config))
    found = (folder / META for folder in config.parents[1 : 1 + _LEVELS] if (folder / META).is_file())
    return next((meta for meta in found if config in _named_by(meta)), None)


def _named_by(meta: Path) -> list[Path]:
    """List the files that a meta.yaml names; none if it is not one of ESPnet's."""
    with suppress(AdaptkitError):
        return [Path(os.path.abspath(meta.parent / name)) for name in read_meta(meta).values()]
    return []
