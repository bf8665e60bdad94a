"""Models by their tag, such as `user/name`: from the cache of huggingface_hub, or downloaded into it.

The package is optional (`adaptkit[hub]`). Nothing is downloaded unless asked for.
"""

import logging
import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from adaptkit.base import trust
from adaptkit.base.meta import META, read_meta
from adaptkit.errors import AdaptkitError, ConfigError

_LOG = logging.getLogger(__name__)
_TAG = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_SMALL = [  # in these patterns, * also stands for folders
    META,
    *("*config.yaml", "*feats_stats.npz", "data/*"),
    *("bpe.model", "nlsyms.txt"),  # of a folder that adaptkit has written, beside config.yaml
    "README*",
    "LICEN*",
    "COPYING*",
    "NOTICE*",
]
_ALL = ["exp/**/*.pth", "*.pth"]  # models of an archive without meta.yaml


@dataclass(frozen=True)
class Snapshot:
    """The files of a model at one revision, in the cache."""

    folder: Path
    revision: str  # a commit hash


def is_tag(source: str) -> bool:
    """Whether a source names a model by its tag rather than by a path.

    >>> is_tag("espnet/some_model"), is_tag("./espnet/model"), is_tag("model.zip")
    (True, False, False)
    """
    return bool(_TAG.fullmatch(source)) and not Path(source).exists()


def fetch(tag: str, *, revision: str | None = None, download: bool = False) -> Snapshot:
    """Return a model from the cache or, with `download`, from the hub: only the files it needs."""
    first = _snapshot(tag, revision, _SMALL, download=download)
    meta = first / META
    needed = list(read_meta(meta).values()) if meta.is_file() else _ALL
    folder = _snapshot(tag, first.name, needed, download=download)  # the same commit
    if meta.is_file() and not all((folder / name).is_file() for name in needed):
        raise AdaptkitError(_explain_absence(tag, revision, download, None))
    _LOG.info("%s: revision %s", tag, folder.name)
    return Snapshot(folder, folder.name)


def _snapshot(tag: str, revision: str | None, patterns: Sequence[str], *, download: bool) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.utils import LocalEntryNotFoundError
    except ImportError as error:
        raise ConfigError(
            f"{tag}: no such path, and to find models by tag, huggingface_hub is missing: pip install "
            "'adaptkit[hub]'; or fetch the archive yourself and give its folder or zip"
        ) from error
    try:
        with trust.downloading() if download else nullcontext():
            folder = snapshot_download(
                tag, revision=revision, allow_patterns=list(patterns), local_files_only=not download
            )
    except LocalEntryNotFoundError as error:
        raise AdaptkitError(_explain_absence(tag, revision, download, error)) from error
    except Exception as error:  # of huggingface_hub, the HTTP library below it, and the network
        what = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise AdaptkitError(
            f"{tag}: not fetched: {type(error).__name__}: {what}; check the tag, --revision and the network"
        ) from error
    return Path(folder)


def _explain_absence(tag: str, revision: str | None, download: bool, error: Exception | None) -> str:
    which = f"{tag} (revision {revision})" if revision else tag
    if not download:
        return (
            f"{which}: no such path, and not complete in the cache of huggingface_hub; --download fetches it"
        )
    if error is None:
        return f"{which}: lacks files named in its meta.yaml; ask its authors, or use another --revision"
    cause = error.__cause__ or error
    return (
        f"{which}: not fetched, and not in the cache: {type(cause).__name__}; check the tag and the network, "
        "or fetch the archive on another machine and give its folder or zip"
    )
