"""The speakers with a usable Submodel, as of the last scan of the folder."""

import logging
from bisect import bisect
from collections.abc import Mapping
from pathlib import Path

from adaptkit.adapters.per_task import SHARED
from adaptkit.errors import listed, nearest
from adaptkit.serve.routing import ROUTED
from adaptkit.serve.schemas import Refusal
from adaptkit.submodels.cache import SubmodelCache
from adaptkit.submodels.files import file_name

_NEIGHBOURS = 100  # names before and after an unknown one to compare it with; 10,000 would take 0.2 s
_LOG = logging.getLogger(__name__)


class Speakers:
    """The speaker names that requests may use; a name is looked up here and never used as a path."""

    def __init__(self, cache: SubmodelCache, folder: Path, *, unknown: str):
        self._cache, self._folder, self._unknown = cache, folder, unknown
        self.names: list[str] = []  # speakers with a usable Submodel, sorted
        self._known: frozenset[str] = frozenset()
        self._problems: Mapping[str, str] = {}
        self.update()

    @property
    def problems(self) -> dict[str, str]:
        """The problem of each unusable file, by speaker or file name."""
        return {name: self.without_folder(problem) for name, problem in self._problems.items()}

    def choose(self, speaker: str | None) -> str | None:
        """Return the speaker whose Submodel to use for a request, None for the base model; or refuse.

        Whom `is_routed` names has None. Another speaker without a Submodel has that of SHARED, if the folder
        has it and the base model is not asked for.
        """
        if speaker in self._known:
            return speaker
        problem = speaker and (self._problems.get(speaker) or self._problems.get(file_name(speaker)))
        if problem:
            raise Refusal(409, f"the Submodel of '{speaker}' cannot be used: {self.without_folder(problem)}")
        if self._unknown in ("base", *ROUTED) or (speaker is None and self._unknown == "error"):
            return None
        if SHARED in self._known:
            return SHARED
        if self._unknown == "shared":
            raise Refusal(409, f"the Submodel of '{SHARED}', for speakers without one, is not in the folder")
        near, more = self.near(speaker), "; GET /v1/submodels lists them"
        raise Refusal(
            404,
            f"speaker: there is no Submodel of '{speaker}'{near or more}; omit speaker for the base model",
        )

    def is_routed(self, speaker: str | None) -> bool:
        """Return whether the Submodel for a request is chosen by its audio, as nobody is named or known."""
        return self._unknown in ROUTED and speaker not in self._known

    def refresh(self) -> None:
        """Scan the folder again."""
        changed = self._cache.refresh()
        if changed:
            _LOG.info("%s: new, changed or removed: %s", self._folder, listed(changed))
        self.update()

    def update(self) -> None:
        """Take over names and problems from the cache, which may have found a file damaged."""
        had_shared = SHARED in self._known
        self.names, self._problems = self._cache.known(), self._cache.problems()
        self._known = frozenset(self.names)
        if SHARED in self._known and not had_shared and self._unknown in ("error", "shared"):
            what = f"Submodels; '{SHARED}' serves every speaker without one"
            _LOG.info("%s: %d %s", self._folder, len(self.names), what)

    def written_sec(self, speaker: str) -> int:
        """Return when a speaker's file was written, in seconds since 1970; 0 if it has gone."""
        return written_sec(self._folder / file_name(speaker))

    def without_folder(self, message: str) -> str:
        """Remove the server's paths from a message to a client."""
        return message.replace(f"{self._folder}/", "")

    def near(self, speaker: str) -> str:
        """Return a question whether a similar name is meant; empty if there is none."""
        place = bisect(self.names, speaker)
        return nearest(speaker, self.names[max(0, place - _NEIGHBOURS) : place + _NEIGHBOURS])


def written_sec(path: Path) -> int:
    """Return when a file was written, in seconds since 1970; 0 if it has gone."""
    try:
        return int(path.stat().st_mtime)
    except OSError:
        return 0
