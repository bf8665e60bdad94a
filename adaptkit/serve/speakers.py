"""Who can be recognised with a Submodel of their own, as of the last look at the folder."""

import logging
from bisect import bisect
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Event, Thread

from adaptkit.errors import AdaptkitError, listed, nearest
from adaptkit.serve.schemas import Refusal
from adaptkit.submodels.cache import SubmodelCache
from adaptkit.submodels.files import file_name

_NEIGHBOURS = 100  # names before and after an unknown one that are compared with it; 10,000 take 0.2 s
_LOG = logging.getLogger(__name__)


class Speakers:
    """The names that requests may give; a name is looked up among them and never becomes a path."""

    def __init__(self, cache: SubmodelCache, folder: Path, *, unknown: str):
        self._cache, self._folder, self._unknown = cache, folder, unknown
        self.names: list[str] = []  # that have a sound Submodel, sorted
        self._known: frozenset[str] = frozenset()
        self._problems: Mapping[str, str] = {}
        self.take_stock()

    @property
    def problems(self) -> dict[str, str]:
        """What is wrong with the other files, by name or file."""
        return {name: self.without_folder(why) for name, why in self._problems.items()}

    def choose(self, speaker: str | None) -> str | None:
        """Give the name whose Submodel serves a request, None for the base model; or refuse."""
        if speaker is None or speaker in self._known:
            return speaker
        problem = self._problems.get(speaker) or self._problems.get(file_name(speaker))
        if problem:
            raise Refusal(409, f"the Submodel of '{speaker}' cannot be used: {self.without_folder(problem)}")
        if self._unknown == "base":
            return None
        raise Refusal(404, f"speaker: there is no Submodel of '{speaker}'{self._hint(speaker)}")

    def refresh(self) -> None:
        """Look at the folder again."""
        changed = self._cache.refresh()
        if changed:
            _LOG.info("%s: new, changed or gone: %s", self._folder, listed(changed))
        self.take_stock()

    def take_stock(self) -> None:
        """Note what the cache knows; a damaged file may have been found out meanwhile."""
        self.names, self._problems = self._cache.known(), self._cache.problems()
        self._known = frozenset(self.names)

    def without_folder(self, message: str) -> str:
        """Keep the server's own paths out of what a client reads."""
        return message.replace(f"{self._folder}/", "")

    def _hint(self, speaker: str) -> str:
        place = bisect(self.names, speaker)
        near = nearest(speaker, self.names[max(0, place - _NEIGHBOURS) : place + _NEIGHBOURS])
        return f"{near or '; GET /v1/submodels lists them'}; leave speaker out for the base model"


class Watch:
    """A thread that looks at the folder again and again, so that no restart is needed for a new file."""

    def __init__(self, look: Callable[[], None], every_sec: float):
        self._look, self._every_sec = look, every_sec
        self._closing = Event()
        self._thread = Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Say whether it looks."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Stop looking."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        said = ""
        while not self._closing.wait(self._every_sec):
            try:
                self._look()
                said = ""
            except Exception as error:  # a bug, or a folder that may be back: there is another look to come
                if str(error) != said:
                    _LOG.warning("%s", error, exc_info=not isinstance(error, AdaptkitError))
                said = str(error)
