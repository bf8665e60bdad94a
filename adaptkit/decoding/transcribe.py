"""Transcribe audio files without a data directory: `adaptkit transcribe`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptkit.adapters.per_task import SHARED
from adaptkit.base.checkpoint import BaseModel
from adaptkit.data.dataset import Examples, make_examples
from adaptkit.decoding.models import Decoder, ModelOptions, find_source, opened
from adaptkit.errors import ConfigError, listed, nearest
from adaptkit.files import require_regular
from adaptkit.kaldi.datadir import DataDir, Utterance

_NOBODY = "-"  # the speaker of files without --speaker


@dataclass(frozen=True)
class Transcript:
    """The n-best texts of a file with their scores, best first."""

    file: Path
    nbest: tuple[tuple[str, float], ...]
    chosen: str | None = None  # whose weights were chosen; None where a name or the base model was given

    @property
    def text(self) -> str:
        """The best text."""
        return self.nbest[0][0]


def transcribe(
    options: ModelOptions, files: Sequence[Path], *, speaker: str | None, device: str
) -> list[Transcript]:
    """Transcribe audio files, all of one speaker, in batches; the order of the files is kept.

    Without a speaker, the base model transcribes alone, or with adapters that all speakers share; so it does
    for a speaker without adapters, unless the files are routed. A file that is not audio raises DataError.
    """
    data = _describe(files, speaker)

    def read(base: BaseModel) -> Examples:
        return make_examples(data, base)

    with opened(options, find_source(options), read, device=device) as (model, examples):
        _refuse_unknown(model, speaker)
        decoded = model.recognise(examples)
    found = {hypothesis.utt_id: hypothesis.nbest for hypothesis in decoded.hypotheses}
    tokens = model.base.tokens
    texts = {
        name: tuple((tokens.decode(one.tokens), one.score) for one in own) for name, own in found.items()
    }
    chosen = {name: choice.name for name, choice in decoded.chosen.items()}
    return [Transcript(file, texts[str(file)], chosen.get(str(file))) for file in files]


def _describe(files: Sequence[Path], speaker: str | None) -> DataDir:
    """Describe files as a set of utterances, each a whole recording; one that is named twice is one."""
    for file in files:
        require_regular(file)
    recordings = {str(file): str(file.resolve()) for file in files}
    utterances = tuple(Utterance(name, speaker or _NOBODY, name, "") for name in recordings)
    return DataDir(files[0].parent, utterances, recordings)


def _refuse_unknown(model: Decoder, speaker: str | None) -> None:
    """Refuse adapters of which each speaker has its own, unless the speaker is named and has some.

    With adapters for all speakers beside them, any speaker has some.
    """
    stack = model.adapters
    if stack is None or model.options.is_routed or (model.submodels is None and not stack.num_per_task):
        return
    known = stack.tasks if model.submodels is None else model.submodels.known()
    if SHARED in known and model.options.unknown_speaker == "error":
        return
    if speaker is None:
        raise ConfigError(
            f"the adapters belong to {len(known)} speakers ({listed(known, 8)}); name one with --speaker, "
            "have one chosen with --route likelihood, or use --base alone, without --exp and --submodels"
        )
    if speaker not in known and model.options.unknown_speaker == "error":
        near = nearest(speaker, known) or f"; known: {listed(known, 8)}"
        remedy = "with --unknown-speaker base, the base model transcribes alone"
        raise ConfigError(f"--speaker {speaker}: has no adapters ({remedy}){near}")
