"""The utterances with the most word errors, and how their words were aligned."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from adaptkit.errors import counted
from adaptkit.kaldi.tables import read_table
from adaptkit.report.runs import ExperimentResult, Run
from adaptkit.scoring.wer import UtteranceScore, score

_NUM_WORST = 10


@dataclass(frozen=True)
class WorstUtterance:
    """An utterance as one of the runs recognised it."""

    seed: int | None  # None if the experiment has a single run
    score: UtteranceScore  # with the alignment

    @property
    def title(self) -> str:
        """Its name, speaker and errors."""
        counts = self.score.words
        seed = "" if self.seed is None else f", seed {self.seed}"
        errors = f"{counted(counts.errors, 'error')} in {counted(counts.words, 'word')}"
        return f"{self.score.utt_id} ({self.score.speaker}{seed}): {errors}"


def find_worst_utterances(result: ExperimentResult) -> list[WorstUtterance]:
    """Find the utterances with the most word errors over all runs, each as the run with most recognised it.

    Empty if the references have moved since they were scored.
    """
    reference = _find_references(result.runs[0])
    if reference is None:
        return []
    read = cache(read_table)
    counted = sorted(
        (u for u in result.score.utterances if u.words.errors),
        key=lambda u: (-u.words.errors, -u.words.rate, u.utt_id),
    )
    by_run = [{u.utt_id: u.words.errors for u in run.score.utterances} for run in result.runs]
    found = []
    for utterance in counted[:_NUM_WORST]:
        errors = [own[utterance.utt_id] for own in by_run]
        run = result.runs[errors.index(max(errors))]
        seed = run.record.seed if len(result.runs) > 1 else None
        found.append(
            WorstUtterance(seed, _align(utterance, run, read(reference), read(run.decoded / "text")))
        )
    return found


def _find_references(run: Run) -> Path | None:
    path = run.decoded / run.score.sources["ref"].path
    return path if path.is_file() else None


def _align(
    utterance: UtteranceScore, run: Run, refs: Mapping[str, str], hyps: Mapping[str, str]
) -> UtteranceScore:
    name, speaker = utterance.utt_id, utterance.speaker
    forms = run.score.normalize
    one = {"speakers": {name: speaker}, "normalize": forms, "where": str(run.decoded)}
    return score({name: refs[name]}, {name: hyps[name]}, **one).utterances[0]
