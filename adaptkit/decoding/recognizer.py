"""The recogniser behind `adaptkit decode`, `transcribe` and `serve`: a base model, adapters and a search."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from numpy.typing import ArrayLike

from adaptkit.adapters.api import AdapterStack
from adaptkit.adapters.per_task import SHARED
from adaptkit.base import checkpoint as base_checkpoint
from adaptkit.base.checkpoint import BaseModel
from adaptkit.base.search.choose import new_searcher
from adaptkit.base.search.paths import BestPath
from adaptkit.base.search.searcher import Searcher
from adaptkit.data.batches import Batch
from adaptkit.data.dataset import BASE_NAME, Examples, number_tasks
from adaptkit.data.short import find_frameless
from adaptkit.decoding import routing, transcribe
from adaptkit.decoding.batches import recognise_with_submodels
from adaptkit.decoding.models import ModelOptions, Source, choose_search, find_source, refuse_base
from adaptkit.decoding.transcribe import MOST_SEC, Speakers
from adaptkit.decoding.transcripts import Transcript
from adaptkit.errors import ConfigError, counted
from adaptkit.files import checksum
from adaptkit.folders import RunFolder
from adaptkit.model import checkpoint
from adaptkit.model.adapted import AdaptedModel
from adaptkit.model.load import warn_of_unfinished
from adaptkit.model.recognise import Hypothesis, recognise
from adaptkit.search_options import SearchRequest, read_search
from adaptkit.submodels.cache import SubmodelCache
from adaptkit.submodels.compatibility import find_files
from adaptkit.submodels.router import Choice, holding
from adaptkit.submodels.shared import with_shared

Read = TypeVar("Read")
_SUBMODEL_MB = 1024
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decoded:
    """The hypotheses of a data set, in no particular order, and whose weights each utterance got."""

    hypotheses: list[Hypothesis]
    chosen: Mapping[str, Choice] = field(default_factory=dict)  # by utterance, if they were routed
    used: Mapping[str, str | None] = field(default_factory=dict)  # by utterance; None: the base model alone


class Recognizer:
    """A base model, alone, with adapters, or with slots for Submodels as adapters, and a search.

    Create it with `from_pretrained` or `opened`. It can be used as a context manager; `close` ends the
    threads that load Submodels. Only one thread at a time may use it.

        with adaptkit.Recognizer.from_pretrained("exp/base", adapters="exp/mine") as recognizer:
            print(recognizer.known)  # the speakers
            samples, rate_hz = soundfile.read("recording.wav")
            transcript = recognizer.transcribe(samples, rate_hz, speaker="anna")
            print(transcript.text, transcript.score)
    """

    def __init__(
        self,
        base: BaseModel,
        searcher: Searcher,
        adapters: AdapterStack | None = None,
        submodels: SubmodelCache | None = None,
        *,
        options: ModelOptions,
        sums: Mapping[Path, int] | None = None,
    ):
        self.base, self.searcher, self.options = base, searcher, options
        self.adapters, self.submodels = adapters, submodels
        self.sums = dict(sums or {})  # CRC-32 of the adapters' file, as it was read
        self.adapted = AdaptedModel(base, adapters, is_frozen=True).eval()
        self.device = next(base.model.parameters()).device
        self._open = ExitStack()

    @classmethod
    def from_pretrained(
        cls,
        base: str | Path,
        *,
        submodels: str | Path | None = None,
        adapters: str | Path | None = None,
        search: str | Path | Mapping[str, Any] = "greedy",
        device: str = "cpu",
        unknown_speaker: Literal["error", "base"] = "error",
        batch_frames: int = 12000,
    ) -> "Recognizer":
        """Open a base model with a folder of Submodels, or with the adapters of an experiment's folder.

        `search` is a name in conf/decode, a yaml, a mapping, or `auto`. A speaker without weights of their
        own uses those called `shared`; if there are none, the speaker is refused, or with
        unknown_speaker="base" recognised by the base model. A batch has at most `batch_frames` feature
        frames, padding included. `device` is cpu, cuda or cuda:N.

        A base model or weights that are missing, damaged or do not belong together are a CheckpointError, a
        search or a device that cannot be used is a ConfigError.
        """
        if submodels is not None and adapters is not None:
            raise ConfigError("submodels and adapters both name the weights of speakers; use one of the two")
        if adapters is not None:
            refuse_base(Path(adapters))
        options = ModelOptions(
            exp=Path(base if adapters is None else adapters),
            base=Path(base),
            unknown_speaker=unknown_speaker,
            batch_frames=batch_frames,
            submodels=None if submodels is None else Path(submodels),
            search=SearchRequest(read_search(search)),
        )
        with ExitStack() as stack:
            own, _ = stack.enter_context(opened(options, find_source(options), device=device))
            own._open = stack.pop_all()
        return own

    def __enter__(self) -> "Recognizer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads that load Submodels; nothing can be recognised with these afterwards."""
        self._open.close()

    @property
    def known(self) -> list[str]:
        """The speakers (tasks) with weights here."""
        if self.submodels is not None:
            return self.submodels.known()
        return [] if self.adapters is None else list(self.adapters.tasks)

    def transcribe(
        self,
        audio: "ArrayLike | Sequence[ArrayLike]",  # quoted, for a short line in help()
        rate_hz: int = 16000,
        speaker: Speakers = None,
        *,
        max_sec: float = MOST_SEC,
    ) -> Transcript | list[Transcript]:
        """Transcribe speech, samples (N,) as floats with full scale 1, or a list of such arrays in batches.

        Samples may be of NumPy or torch, and are resampled to the model's rate. A list gives a list in its
        order; `speaker` may then be a list too. Audio longer than `max_sec`, or than the model reads at
        once, is cut at pauses, which needs the extra `long`.

        A speaker without weights is a ConfigError, and samples of another shape or type are a DataError.
        """
        is_one = not isinstance(audio, list | tuple)
        arrays = [audio] if is_one else list(audio)
        found = transcribe.transcribe_arrays(self, arrays, rate_hz, speaker, most_sec=max_sec)
        return found[0] if is_one else found

    def transcribe_files(
        self,
        files: Sequence[str | Path],
        speaker: Speakers = None,
        *,
        max_sec: float = MOST_SEC,
    ) -> list[Transcript]:
        """Transcribe audio files in batches, as `transcribe` does arrays; their order is kept.

        Files may be WAV, FLAC, MP3, Ogg or SPHERE, of any sampling rate, with one channel.
        """
        return transcribe.transcribe_files(self, files, speaker, most_sec=max_sec)

    def recognise(self, examples: Examples, *, with_times: bool = False) -> Decoded:
        """Recognise every utterance; one without encoder frames is silence."""
        is_routed, chosen = self.options.is_routed, {}
        examples = examples if is_routed else self._number_tasks(examples)
        short = find_frameless(examples)
        examples = examples.without(short)
        with self.adapted.hooked():
            if is_routed:
                chosen = self._route(examples)
                examples = routing.assign(examples, chosen, self.known)
            found = self._recognise(examples, replace(self.searcher, with_times=with_times))
        silent = [Hypothesis(name, "", 0.0, (BestPath([], 0.0, spans=()),)) for name in short]
        of_task = self._find_used(examples.data.tasks)
        used = {u.utt_id: of_task[u.task] for u in examples.data.utterances}
        return Decoded(found + silent, chosen, used)

    @contextmanager
    def weights(self, tasks: Sequence[str | None]) -> Iterator[list[int]]:
        """Yield the task id of each row of a batch, with their Submodels in memory until the block ends."""
        with holding(self.adapters, self.submodels, tasks) as task_ids:
            yield task_ids

    def search_rows(
        self,
        batch: Batch,
        is_wanted: Callable[[int], bool] | None = None,
        *,
        with_times: frozenset[int] = frozenset(),
    ) -> Iterator[tuple[int, list[BestPath]]]:
        """Yield the rows of a batch with their n best hypotheses; inside `adapted.hooked()` and `weights`.

        For the rows in `with_times`, the best hypothesis has the frames of its tokens, if the model has them.
        """
        searcher = replace(self.searcher, with_times=with_times)
        yield from self.adapted.recognise_rows(batch.to(self.device), searcher, is_wanted)

    def _route(self, examples: Examples) -> dict[str, Choice]:
        options = self.options
        return routing.route(
            self.adapted,
            examples,
            options.route,
            folder=options.submodels or options.exp,
            batch_frames=options.batch_frames,
            submodels=self.submodels,
        )

    def _recognise(self, examples: Examples, searcher: Searcher) -> list[Hypothesis]:
        size = self.options.batch_frames
        if self.submodels is None:
            return recognise(self.adapted, examples, size, searcher=searcher)
        return recognise_with_submodels(self.adapted, examples, size, self.submodels, searcher=searcher)

    @property
    def _is_everyones(self) -> bool:
        """Whether all speakers share all of the adapters."""
        return self.adapters is not None and self.submodels is None and not self.adapters.num_per_task

    def _find_used(self, tasks: Sequence[str]) -> dict[str, str | None]:
        """Return whose weights the utterances of each task get; None for the base model alone."""
        if self.adapters is None:
            return dict.fromkeys(tasks)
        known = frozenset(self.known)
        is_shared = (SHARED in known or self._is_everyones) and self.options.unknown_speaker == "error"
        fallback = SHARED if is_shared else None
        return {task: task if task in known else None if task == BASE_NAME else fallback for task in tasks}

    def _number_tasks(self, examples: Examples) -> Examples:
        """Assign task ids to a data set; refuse damaged Submodels and, if requested, unknown tasks."""
        unknown, known = self.options.unknown_speaker, self.known
        if self.adapters is None:
            return examples
        if self.submodels is not None:
            has_all = set(examples.data.tasks) <= set(known)
            self.submodels.check([*examples.data.tasks, *([] if has_all or unknown == "base" else [SHARED])])
        if self._is_everyones and unknown == "error":
            return replace(examples, task_ids=dict.fromkeys(examples.data.tasks, 0))
        return replace(examples, task_ids=number_tasks(examples.data, known, unknown=unknown))


@contextmanager
def opened(
    options: ModelOptions,
    source: Source,
    read: Callable[[BaseModel], Read] | None = None,
    *,
    device: str,
    most_speakers: int | None = None,
) -> Iterator[tuple[Recognizer, Read]]:
    """Load the model, and yield it with the result of `read` for its base model.

    There are at most as many slots for Submodels as `most_speakers`, or as tasks in the result of `read`.
    """
    adapter_path = RunFolder(options.exp).adapter
    has_file = not source.base_only and options.submodels is None
    sums = {adapter_path: checksum(adapter_path)} if has_file and adapter_path.is_file() else {}
    file = checkpoint.load(adapter_path) if has_file else None
    if has_file:
        warn_of_unfinished(RunFolder(options.exp))
    base = base_checkpoint.load(source.base.dir, device, prompt=source.base.prompt)
    adapters = None if file is None else checkpoint.restore(file, base, adapter_path)
    examples = None if read is None else read(base)
    searcher = new_searcher(base, choose_search(options, source))
    if options.is_routed:
        routing.refuse_unroutable(options, adapters)
        adapters = None if adapters is None else with_shared(adapters, options.exp, base)
    if options.submodels is None:
        made = Recognizer(base, searcher, adapters, options=options, sums=sums)
        yield made, examples
        return
    if isinstance(examples, Examples):
        most_speakers = len(examples.data.tasks)
    if options.is_routed or most_speakers is None:
        most_speakers = max(1, len(find_files(options.submodels)))
    budget_mb = _SUBMODEL_MB if options.submodel_mb is None else options.submodel_mb
    budget_bytes = round(budget_mb * 2**20)
    cache = SubmodelCache(options.submodels, base, budget_bytes=budget_bytes, most_slots=most_speakers)
    with closing(cache) as submodels:
        yield Recognizer(base, searcher, submodels.stack, submodels, options=options), examples
        stats = submodels.stats()
        message = "%s: memory for %s; hits %d, misses %d, evictions %d"
        figures = counted(stats.num_slots, "Submodel"), stats.hits, stats.misses, stats.evictions
        _LOG.info(message, options.submodels, *figures)
