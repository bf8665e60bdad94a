"""Cross-evaluate every Submodel on every speaker, as a table and a plot: `adaptkit submodels cross`.

The diagonal shows each Submodel on its own speaker, the other cells its effect on other speakers, who may
also be speakers without Submodels, such as those of the base model's training set.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adaptkit import locks
from adaptkit.characters import abridge, split_words, visible
from adaptkit.data.batches import load_batches
from adaptkit.data.dataset import BASE_NAME, BASE_TASK, Examples, read_examples
from adaptkit.data.short import find_frameless
from adaptkit.errors import ConfigError
from adaptkit.files import replacing, write_text
from adaptkit.kaldi import subset
from adaptkit.model.adapted import AdaptedModel
from adaptkit.model.load import load_experiment
from adaptkit.model.recognise import plan_decoding, search
from adaptkit.progress import counting
from adaptkit.scoring.counts import count_words

_MOST_NAMES = 48  # more would not be legible in the plot
_MOST_WER = 100.0  # upper end of the colour scale
DPI = 120


@dataclass(frozen=True)
class CrossMatrix:
    """Word errors of speakers (rows) under Submodels (columns), the base model last."""

    speakers: tuple[str, ...]
    submodels: tuple[str, ...]
    errors: np.ndarray  # (S, K + 1)
    words: np.ndarray  # (S,) in the references

    @property
    def rates(self) -> np.ndarray:
        """The WER of every cell in percent (S, K + 1), NaN for speakers without words."""
        words = np.where(self.words > 0, self.words, np.nan)
        return 100 * self.errors / words[:, None]

    def summary(self) -> dict[str, float]:
        """Return the WER in percent of the base model and own, other, best single and worst single Submodels.

        Entries without reference words are left out.
        """
        own = np.zeros_like(self.errors, dtype=bool)
        for row, speaker in enumerate(self.speakers):
            if speaker in self.submodels:
                own[row, self.submodels.index(speaker)] = True
        others = ~own
        others[:, -1] = False
        words = np.broadcast_to(self.words[:, None], self.errors.shape)
        parts = {"base": np.zeros_like(own), "own": own, "others": others}
        parts["base"][:, -1] = True
        found = {n: 100 * self.errors[m].sum() / words[m].sum() for n, m in parts.items() if words[m].any()}
        if self.words.any():
            columns = 100 * self.errors[:, :-1].sum(axis=0) / self.words.sum()
            found |= {"best Submodel for all": columns.min(), "worst Submodel for all": columns.max()}
        return {name: round(float(rate), 2) for name, rate in found.items()}


def cross(
    exp: Path,
    data: Path,
    out: Path,
    *,
    device: str,
    base: Path | None = None,
    per_speaker: int | None = None,
    batch_frames: int = 12000,
    allow_pipes: bool = False,
) -> CrossMatrix:
    """Recognise a data set with every task's adapters and the base model; write a table, plot and summary.

    `per_speaker` limits the number of utterances per speaker; None takes all.
    """
    loaded = load_experiment(exp, base=base, device=device)
    examples = read_examples(data, loaded.base, allow_pipes=allow_pipes)
    if per_speaker is not None:
        kept = set(subset.choose_per_speaker(examples.data, per_speaker))
        examples = examples.without({u.utt_id for u in examples.data.utterances} - kept)
    matrix = measure(AdaptedModel(loaded.base, loaded.adapters).eval(), examples, batch_frames)
    title = f"WER of {abridge(visible(data.name))}\nby Submodels of {abridge(visible(exp.resolve().name))}"
    with locks.hold(out, wait=True):
        _write_tsv(matrix, out / "matrix.tsv")
        draw(matrix, out / "matrix.png", title=title)
        write_text(out / "summary.json", json.dumps(matrix.summary(), indent=1) + "\n")
    return matrix


def measure(adapted: AdaptedModel, examples: Examples, batch_frames: int) -> CrossMatrix:
    """Count the word errors of every utterance with every task's weights and with the base model.

    All words of an utterance that is too short for the encoder count as deletions.
    """
    tasks = adapted.adapters.tasks
    if not tasks:
        raise ConfigError("the adapters have no tasks")
    columns = [*range(len(tasks)), BASE_TASK]
    speakers = tuple(examples.data.tasks)
    rows = {u.utt_id: speakers.index(u.task) for u in examples.data.utterances}
    refs = {u.utt_id: u.text for u in examples.data.utterances}
    errors = np.zeros((len(speakers), len(columns)), dtype=np.int64)
    words = np.zeros(len(speakers), dtype=np.int64)
    for utt_id, text in refs.items():
        words[rows[utt_id]] += len(split_words(text))
    short = find_frameless(examples)
    for utt_id in short:
        errors[rows[utt_id]] += len(split_words(refs[utt_id]))
    kept = examples.without(short)
    with counting("cross-evaluating", len(kept) * len(columns)) as advance:
        for column, texts in _recognise(adapted, kept, columns, batch_frames):
            counts = count_words([refs[utt_id] for utt_id in texts], list(texts.values()))
            for utt_id, count in zip(texts, counts, strict=True):
                errors[rows[utt_id], column] += count.errors
            advance(len(texts), "")
    return CrossMatrix(speakers, tasks, errors, words)


def draw(matrix: CrossMatrix, path: Path, *, title: str) -> None:
    """Draw a matrix as a PNG heat map; a WER above 100 % has the colour of 100 %."""
    with matplotlib.rc_context({"text.parse_math": False, "font.size": 9}):
        columns, rows = max(60, len(matrix.submodels)), max(60, len(matrix.speakers))
        size = (3.2 + 0.05 * min(columns, 200), 2.0 + 0.05 * min(rows, 200))  # inches
        figure = Figure(figsize=size, layout="constrained")
        ax = figure.add_subplot()
        image = ax.imshow(
            matrix.rates, vmin=0, vmax=_MOST_WER, cmap="magma_r", aspect="auto", interpolation="nearest"
        )
        ax.axvline(len(matrix.submodels) - 0.5, color="white", linewidth=2)
        figure.suptitle(title, x=0.01, ha="left")
        _name(ax, "x", [*matrix.submodels, BASE_NAME])
        _name(ax, "y", matrix.speakers)
        figure.colorbar(image, label="WER in percent", extend="max")
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=DPI)


def _recognise(
    adapted: AdaptedModel, examples: Examples, columns: Sequence[int], batch_frames: int
) -> Iterator[tuple[int, Mapping[str, str]]]:
    """Yield the texts of each batch for each column's task."""
    device = next(adapted.espnet.parameters()).device
    with torch.inference_mode(), adapted.hooked():
        for batch in load_batches(examples, plan_decoding(adapted, examples, batch_frames)):
            read = adapted.read_taps(batch.to(device))
            for column, task in enumerate(columns):
                paths = search(adapted, read.of_task(task))
                yield column, {u: examples.base.tokens.decode(path.tokens) for u, path in paths.items()}


def _write_tsv(matrix: CrossMatrix, path: Path) -> None:
    """Write the word errors and, in the last column, the number of reference words of each speaker."""
    lines = ["\t".join(["speaker", *matrix.submodels, BASE_NAME, "words"])]
    for speaker, errors, words in zip(matrix.speakers, matrix.errors, matrix.words, strict=True):
        lines.append("\t".join([speaker, *map(str, errors), str(words)]))
    write_text(path, "\n".join(lines) + "\n")


def _name(ax: Axes, axis: str, names: Sequence[str]) -> None:
    """Label an axis, with the names along it if there are few enough to read."""
    shown = [abridge(visible(name)) for name in names] if len(names) <= _MOST_NAMES else []
    if axis == "x":
        number = "" if shown else " (column of matrix.tsv, from 0)"
        ax.set_xlabel(f"Submodel{number}\nright of the line: base model alone")
        if shown:
            ax.set_xticks(range(len(names)), shown, rotation=90)
    else:
        ax.set_ylabel("speaker" if shown else "speaker (row of matrix.tsv, from 0)")
        if shown:
            ax.set_yticks(range(len(names)), shown)
