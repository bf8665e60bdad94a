"""Find the files of a base model: in adaptkit's own folder or in a released ESPnet archive.

ESPnet packs a `meta.yaml` that names the others: `yaml_files.asr_train_config`, `files.asr_model_file` and,
with a language model, `lm_train_config` and `lm_file` (espnet2/main_funcs/pack_funcs.py). Paths in it and in
`config.yaml` start at the root of the archive.
"""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

from adaptkit.base import zipped
from adaptkit.base.meta import META, existing, find_meta, inside, read_meta
from adaptkit.base.model_file import choose_model, list_models, refuse_training_state
from adaptkit.errors import AdaptkitError, CheckpointError, listed, shorten
from adaptkit.folders import RunFolder

_LOG = logging.getLogger(__name__)
_TASKS = ("asr", "s2t")  # tasks of ESPnet's recognisers, as abbreviated in meta.yaml
_NOTICES = re.compile(r"(licen[cs]e|copying|notice|readme)\b.*", re.IGNORECASE)
_MADE_BY = "'adaptkit base import' makes one of a released model, 'adaptkit base train' trains one"
_LEVELS = 4  # most folders between a model file and the root of its archive


@dataclass(frozen=True)
class ModelFiles:
    """The files of a base model; paths in its configuration start at `root`."""

    root: Path
    config: Path
    model: Path
    lm_config: Path | None = None
    lm_model: Path | None = None
    meta: Path | None = None
    notices: tuple[Path, ...] = ()  # licence and model card

    def find(self, name: str | Path) -> Path | None:
        """Find a file that the configuration names: from the root, beside the model, then as written.

        The working folder comes last, since it may hold another model's file of that name. An absolute path
        was valid where the model was made, so each trailing part of it is tried.
        """
        parts = PurePosixPath(name).parts
        ends = [Path(*parts[start:]) for start in range(1 if Path(name).is_absolute() else 0, len(parts))]
        folders = dict.fromkeys((self.root, self.config.parent, self.model.parent))
        inside = [folder / end for end in ends if ".." not in end.parts for folder in folders]
        return next((path for path in (*inside, Path(name)) if os.path.isfile(path)), None)

    def moved(self, old: Path, new: Path) -> "ModelFiles":
        """Return the files with the folder `old` replaced by `new` in their paths."""

        def move(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(move, value))
            return new / value.relative_to(old) if value is not None and value.is_relative_to(old) else value

        return replace(self, **{field.name: move(getattr(self, field.name)) for field in fields(self)})


def own_files(folder: Path) -> ModelFiles:
    """Name the files of adaptkit's own folder of a base model, whether they exist or not."""
    lm = RunFolder(folder / "lm")
    has_lm = lm.config.is_file() and lm.model.is_file()
    meta = folder / META
    return ModelFiles(
        root=folder,
        config=RunFolder(folder).config,
        model=RunFolder(folder).model,
        lm_config=lm.config if has_lm else None,
        lm_model=lm.model if has_lm else None,
        meta=meta if meta.is_file() else None,
        notices=_find_notices(folder),
    )


@contextmanager
def opened(source: Path, *, model_file: str | None = None, with_lm: bool = True) -> Iterator[ModelFiles]:
    """Yield the files of a model; those of a zip exist within the block, in a temporary folder.

    `model_file` is the name of the model file where a folder holds several. Without `with_lm`, a language
    model in a zip is named but not extracted.
    """
    source = Path(source)
    _refuse_unusable(source)
    if not is_zip(source):
        yield locate(source, model_file=model_file)
        return
    with zipped.unpacked(source) as (folder, extract):
        try:
            files = locate(folder, model_file=model_file)
            extract(files.model)
            if with_lm and files.lm_model is not None:
                extract(files.lm_model)
            yield files
        except AdaptkitError as error:
            raise type(error)(str(error).replace(str(folder), str(source))) from error


def locate(source: Path, *, model_file: str | None = None) -> ModelFiles:
    """Find the files of a model in a folder, or those of a `.pth`; a CheckpointError if there are none."""
    source = Path(source)
    _refuse_unusable(source)
    if source.is_dir():
        return _in_folder(source, model_file)
    if source.suffix == ".pth" and source.is_file():
        refuse_training_state(source)
        if model_file not in (None, source.name):
            raise CheckpointError(
                f"{source}: a model file itself, but --model-file names {model_file}; omit --model-file, or "
                f"give the folder {source.parent}"
            )
        return _beside(source)
    if source.name.endswith((".tgz", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".tbz2", ".txz")):
        raise CheckpointError(f"{source}: a tar archive; unpack it ('tar xf') and give its folder")
    raise _nothing(source)


def is_base(path: Path) -> bool:
    """Whether a path leads to a base model, rather than to an experiment or its yaml."""
    path = Path(path)
    if not os.path.isdir(path):  # unlike Path.is_dir, it accepts names of any length
        return os.path.isfile(path) and path.suffix in (".pth", ".zip")
    if RunFolder(path).model.exists() or (path / META).is_file():
        return True
    return bool(list_models(path)) or bool(_inner(path))


def _refuse_unusable(source: Path) -> None:
    if "\0" in str(source) or max((len(part.encode()) for part in source.parts), default=0) > 255:
        raise CheckpointError(f"{shorten(str(source), 60)!r}: not a base model: not a valid path")


def is_zip(source: Path) -> bool:
    """Whether a model's source is a zip of files; a `.pth`, which torch writes as a zip, is not."""
    return source.suffix != ".pth" and source.is_file() and zipped.is_zip(source)


def _in_folder(folder: Path, model_file: str | None) -> ModelFiles:
    own = RunFolder(folder)
    if Path(os.path.abspath(folder)).name == "exp" and not own.config.exists():
        return _in_folder(folder.parent, model_file)
    if model_file is None and own.config.is_file() and own.model.is_file():
        return own_files(folder)
    if (folder / META).is_file():
        return _by_meta(folder / META, model_file)
    if own.config.is_file():
        meta = find_meta(own.config) if model_file is None else None
        return _beside(_choose(folder, model_file)) if meta is None else _by_meta(meta, None)
    inner = _inner(folder)
    if len(inner) > 1:
        raise CheckpointError(
            f"{folder}: holds several models: {listed(map(str, inner))}; give the folder of one"
        )
    if not inner and list_models(folder):
        return _beside(_choose(folder, model_file))  # an error: its config.yaml is missing
    if not inner:
        raise _nothing(folder)
    return _beside(_choose(inner[0], model_file))


def _inner(folder: Path) -> list[Path]:
    """List the folders of recognisers in an archive without meta.yaml: `exp/*` with config.yaml and model."""
    found = sorted(
        path for path in folder.glob("exp/*") if RunFolder(path).config.is_file() and list_models(path)
    )
    return [path for path in found if not path.name.startswith("lm_")]


def _by_meta(meta: Path, model_file: str | None) -> ModelFiles:
    """Find the files that a meta.yaml names."""
    named = read_meta(meta)
    tasks = [task for task in _TASKS if f"{task}_train_config" in named]
    if not tasks:
        raise CheckpointError(
            f"{meta}: names no recogniser (yaml_files.asr_train_config), only "
            f"{listed(sorted(named)) or 'nothing'}; use an archive of a recogniser"
        )
    config = existing(meta, named, f"{tasks[0]}_train_config")
    if model_file is not None:
        model = _choose(config.parent, model_file)
    elif f"{tasks[0]}_model_file" in named:
        model = existing(meta, named, f"{tasks[0]}_model_file")
        refuse_training_state(model)
    else:
        model = _choose(config.parent)
    lm_config, lm_model = (inside(meta, named.get(name)) for name in ("lm_train_config", "lm_file"))
    has_lm = (
        lm_config is not None
        and os.path.isfile(lm_config)
        and lm_model is not None
        and os.path.isfile(lm_model)
    )
    return ModelFiles(
        root=meta.parent,
        config=config,
        model=model,
        lm_config=lm_config if has_lm else None,
        lm_model=lm_model if has_lm else None,
        meta=meta,
        notices=_find_notices(meta.parent),
    )


def _beside(model: Path) -> ModelFiles:
    """Find what belongs to a model file: config.yaml beside it, and the root above it."""
    config = RunFolder(model.parent).config
    if not config.is_file():
        raise CheckpointError(
            f"{model}: no config.yaml beside it; copy the one that ESPnet wrote with this model to {config}"
        )
    meta = find_meta(config)
    if meta is not None:
        return replace(_by_meta(meta, model.name), config=config, model=model)
    root = _root_above(config)
    lm_config, lm_model = _find_lm(root)
    notices = _find_notices(root)
    return ModelFiles(root, config, model, lm_config=lm_config, lm_model=lm_model, notices=notices)


def _root_above(config: Path) -> Path:
    """Return the folder above `exp`, where paths of a configuration in exp/... start; else its own folder."""
    folders = Path(os.path.abspath(config)).parents
    return next((folder.parent for folder in folders[1:_LEVELS] if folder.name == "exp"), config.parent)


def _find_lm(root: Path) -> tuple[Path, Path] | tuple[None, None]:
    """Find the one language model of an archive without meta.yaml."""
    found = [path for path in root.glob("exp/lm_*") if RunFolder(path).config.is_file() and list_models(path)]
    if len(found) != 1:
        return None, None
    try:
        return RunFolder(found[0]).config, _choose(found[0])
    except CheckpointError as error:  # several models, as during its training
        _LOG.warning("%s (with --lm); the recogniser is used without a language model", error)
        return None, None


def _find_notices(root: Path) -> tuple[Path, ...]:
    return tuple(sorted(path for path in root.glob("*") if _NOTICES.fullmatch(path.name) and path.is_file()))


def _choose(folder: Path, name: str | None = None) -> Path:
    chosen = choose_model(folder, name)
    if chosen is None:
        raise _nothing(folder)
    return chosen


def _nothing(source: Path) -> CheckpointError:
    if not source.exists():
        is_tag = re.fullmatch(r"[\w.-]+/[\w.-]+", str(source))
        tag = (
            f"if it is a model tag, 'adaptkit base import {source} --out DIR' imports it; " if is_tag else ""
        )
        remedy = f"{tag}{_MADE_BY}"
        return CheckpointError(f"{source}: not a base model: no such file or folder; {remedy}")
    if RunFolder(source).adapter.exists():
        described = f"base.dir in {RunFolder(source).config}"
        remedy = f"name its base model instead ({described}), and this folder where an experiment is expected"
        return CheckpointError(f"{source}: an experiment with adapters, not a base model; {remedy}")
    return CheckpointError(
        f"{source}: not a base model: expected config.yaml and model.pth, or an ESPnet archive with "
        f"meta.yaml; {_MADE_BY}"
    )
