"""Make a self-contained folder of a released model: weights, configuration and all files that it names."""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from adaptkit import locks
from adaptkit.base import archive, checkpoint, hub
from adaptkit.base.archive import ModelFiles
from adaptkit.base.checkpoint import BaseModel
from adaptkit.base.meta import META
from adaptkit.base.model_file import read_weights
from adaptkit.config import read_yaml, write_yaml
from adaptkit.errors import AdaptkitError, CheckpointError, ConfigError, listed
from adaptkit.files import explain_os_error, parse_json, read_text, replacing, require_regular, write_text
from adaptkit.folders import RunFolder
from adaptkit.provenance import collect_versions

_LOG = logging.getLogger(__name__)
_BPE, _STATS, _SYMBOLS = "bpe.model", "feats_stats.npz", "nlsyms.txt"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Origin:
    """Where an imported model comes from, as `import.json` records it."""

    source: str  # path or tag
    revision: str | None  # of a tag: its commit
    model_file: str  # within the archive
    espnet: str | None  # version that made it
    fingerprint: str
    imported: str  # date and time
    versions: Mapping[str, str]
    sha256: Mapping[str, str]  # of each file of the folder, by name


def import_model(
    source: str,
    out: Path,
    *,
    model_file: str | None = None,
    revision: str | None = None,
    download: bool = False,
) -> Origin:
    """Write the model of an archive, zip, `.pth` or tag to a separate folder, or leave nothing there.

    The model is loaded first, so that an unusable one is refused. `config.yaml` names files by absolute
    paths, since ESPnet resolves relative ones from the working folder; adaptkit finds them even if the folder
    moves. An earlier import of the same model is kept, also if its archive is gone; of another one, refused.
    """
    out = Path(out)
    present = _read_present(out)
    is_same = present is not None and _is_of(present, source, revision, model_file)
    if is_same and not Path(source).exists():
        return _keep(present, out)
    if hub.is_tag(source):
        snapshot = hub.fetch(source, revision=revision, download=download)
        path, revision = snapshot.folder, snapshot.revision
    elif revision is not None or download:
        raise ConfigError(f"{source}: a path; --revision and --download are for tags such as user/name")
    else:
        path = Path(source)
    with locks.hold(out, parts=("lm",)), archive.opened(path, model_file=model_file) as files:
        names = _plan(files)
        if present is None:
            _refuse_occupied(out, names)
        checkpoint.refuse_unfinished(files)
        base = checkpoint.load_files(path, files)
        if present is not None:
            _refuse_other(present, base, files, out)
            return _keep(present, out)
        config, fingerprint = dict(base.config), base.fingerprint
        with _removing(out, names):
            write_yaml(RunFolder(out).config, _copy_named(base, out))
            del base  # before the language model is read
            _copy_lm(files, config["token_list"], out)
            _write_meta(files, config, out)
            for notice in files.notices:
                _copy(notice, out / notice.name)
            with replacing(RunFolder(out).model) as temporary:  # last: without it, the folder holds no model
                _copy_file(files.model, temporary)
                hashes = {name: _hash(out / name) for name in names if (out / name).is_file()}
                origin = Origin(
                    source=str(source),
                    revision=revision,
                    model_file=str(files.model.relative_to(files.root)),
                    espnet=_read_version(files),
                    fingerprint=fingerprint,
                    imported=time.strftime("%Y-%m-%d %H:%M:%S"),
                    versions=collect_versions(),
                    sha256={**hashes, RunFolder(out).model.name: _hash(temporary)},
                )
                write_text(RunFolder(out).origin, json.dumps(asdict(origin), indent=2) + "\n")
    return origin


def _read_present(out: Path) -> Origin | None:
    """Return what an earlier import has recorded; None if the folder holds no imported model."""
    return read_origin(archive.own_files(out)) if RunFolder(out).model.exists() else None


def _is_of(present: Origin, source: str, revision: str | None, model_file: str | None) -> bool:
    """Whether an import came from a path or tag, and of the revision and model file that are asked for."""
    is_file = model_file in (None, Path(present.model_file).name)
    return present.source == source and revision in (None, present.revision) and is_file


def _keep(present: Origin, out: Path) -> Origin:
    _LOG.info("%s: holds the model of %s already", out, present.source)
    return present


def _refuse_other(present: Origin, base: BaseModel, files: ModelFiles, out: Path) -> None:
    """Refuse a folder with another recogniser or language model than those of an archive."""
    lm = present.sha256.get(str(RunFolder(Path("lm")).model))
    is_same_lm = lm is None or (files.lm_model is not None and lm == _hash(files.lm_model))
    if present.fingerprint != base.fingerprint or not is_same_lm:
        raise ConfigError(
            f"{out}: already contains a base model, imported from {present.source} on {present.imported}, "
            "which is not the same; remove the folder, or choose another one with --out"
        )


def copy_parts(base: BaseModel, out: Path) -> dict[str, Any]:
    """Copy all parts of a model except its weights to a folder, as an ESPnet archive.

    These are the files that its configuration names, its language model, licence and model card, and a
    `meta.yaml`. The configuration is returned with their absolute paths, as `import_model` writes it.
    """
    with opened_again(base) as files:
        config = _copy_named(replace(base, files=files), out)
        _copy_lm(files, config["token_list"], out)
        _write_meta(files, config, out)
        for notice in files.notices:
            _copy(notice, out / notice.name)
    return config


@contextmanager
def opened_again(base: BaseModel) -> Iterator[ModelFiles]:
    """Yield the files that a model was loaded from; those of a zip exist within the block."""
    if not archive.is_zip(base.path):
        yield base.files
        return
    with archive.opened(base.path) as files:
        yield files


def read_origin(files: ModelFiles) -> Origin | None:
    """Return where an imported model comes from; None for any other model."""
    path = RunFolder(files.root).origin
    if not path.is_file():
        return None
    try:
        return Origin(**parse_json(read_text(path)))
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: damaged: {error}; import the model again, or remove the file"
        ) from error


def _plan(files: ModelFiles) -> list[str]:
    """List the files of an imported folder that an import may write, besides the model."""
    lm = RunFolder(Path("lm"))
    notices = [notice.name for notice in files.notices]
    own = RunFolder(Path())
    return [str(own.config), _BPE, _STATS, _SYMBOLS, META, str(lm.config), str(lm.model), *notices]


def _refuse_occupied(out: Path, names: list[str]) -> None:
    """Refuse a folder with anything but the remains of a killed import."""
    own = RunFolder(out)
    if own.model.exists():
        raise ConfigError(f"{out}: already contains a base model; choose another folder with --out")
    known = {Path(name).parts[0] for name in names} | {locks.FILE, own.origin.name}
    others = sorted(path.name for path in out.iterdir() if path.name not in known)
    if others:
        raise ConfigError(f"{out}: holds other files ({listed(others, 3)}); choose another folder with --out")


@contextmanager
def _removing(out: Path, names: list[str]) -> Iterator[None]:
    """Remove everything written if the block fails."""
    try:
        yield
    except BaseException:
        for name in (*names, RunFolder(out).origin.name):
            with suppress(OSError):
                (out / name).unlink()
        with suppress(OSError):
            (out / "lm").rmdir()
        raise


def _copy_named(base: BaseModel, out: Path) -> dict[str, Any]:
    """Copy the files named in the configuration; return it with the new paths, absolute for stock ESPnet."""
    config, files = dict(base.config), base.files
    normalize = dict(config["normalize_conf"])
    if config.get("bpemodel"):
        config["bpemodel"] = _copy(files.find(config["bpemodel"]), out / _BPE)
    if isinstance(config.get("non_linguistic_symbols"), str):
        symbols = files.find(config["non_linguistic_symbols"])
        config["non_linguistic_symbols"] = None if symbols is None else _copy(symbols, out / _SYMBOLS)
    if normalize.get("stats_file"):
        statistics = files.find(normalize["stats_file"])
        normalize["stats_file"] = (
            _write_statistics(base, out / _STATS) if statistics is None else _copy(statistics, out / _STATS)
        )
        config["normalize_conf"] = normalize
    return config


def _write_statistics(base: BaseModel, target: Path) -> str:
    """Write the model's own mean and deviation as statistics, in place of a missing file."""
    mean, std = (getattr(base.model.normalize, name).double().numpy() for name in ("mean", "std"))
    with replacing(target) as temporary:
        np.savez(temporary, count=1.0, sum=mean, sum_square=std**2 + mean**2)
    return str(target.resolve())


def _copy_lm(files: ModelFiles, tokens: list[str], out: Path) -> None:
    """Check and copy the language model, if there is one."""
    if files.lm_config is None or files.lm_model is None:
        return
    config, lm = read_yaml(files.lm_config), RunFolder(out / "lm")
    theirs = config.get("token_list")
    if theirs != tokens:
        found = f"{len(theirs)} tokens" if isinstance(theirs, list) else "no list"
        what = f"{files.lm_config}: has another token list ({found}) than the recogniser ({len(tokens)})"
        if files.meta is None:  # found in the same exp/ only
            _LOG.warning("%s; the recogniser is imported without a language model", what)
            return
        raise CheckpointError(
            f"{what}; to import the recogniser alone, remove lm_train_config and lm_file from meta.yaml"
        )
    read_weights(files.lm_model)
    if config.get("bpemodel"):
        config["bpemodel"] = str((out / _BPE).resolve())
    write_yaml(lm.config, config)
    _copy(files.lm_model, lm.model)


def _write_meta(files: ModelFiles, config: Mapping[str, Any], out: Path) -> None:
    """Write the archive's meta.yaml with the new names of its files."""
    meta = {} if files.meta is None else read_yaml(files.meta)
    task = "s2t" if config.get("preprocessor") in ("s2t", "s2t_ctc") else "asr"
    own, lm = RunFolder(Path()), RunFolder(Path("lm"))
    yamls, models = {f"{task}_train_config": str(own.config)}, {f"{task}_model_file": str(own.model)}
    if (out / lm.model).is_file():
        yamls["lm_train_config"], models["lm_file"] = str(lm.config), str(lm.model)
    write_yaml(out / META, {**meta, "yaml_files": yamls, "files": models})


def _copy(source: Path, target: Path) -> str:
    """Copy a file; return its new path."""
    require_regular(source)
    with replacing(target) as temporary:
        _copy_file(source, temporary)
    return str(target.resolve())


def _copy_file(source: Path, target: Path) -> None:
    require_regular(source)
    shutil.copyfile(source, target)


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise AdaptkitError(explain_os_error(error, path)) from error
    return digest.hexdigest()


def _read_version(files: ModelFiles) -> str | None:
    """Return the version of ESPnet that packed an archive."""
    version = None if files.meta is None else read_yaml(files.meta).get("espnet")
    return None if version is None else str(version)
