"""What experiments left on disk, gathered for a report: the runs of each over its seeds, and their scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from adaptkit.config import read_yaml
from adaptkit.errors import AdaptkitError, ScoringError, listed, nearest
from adaptkit.folders import DecodeFolder, RunFolder
from adaptkit.records import DecodeRecord, Progress, RunRecord, read_progress
from adaptkit.scoring import files as score_files
from adaptkit.scoring.wer import ScoreReport, pool

_SHARED = ("kind", "tasks", "base_fingerprint", "params_base", "params_trainable", "params_per_task")
_NOT_SHARED = ("seed", "num_workers", "save_every_steps")  # of `train:`
_OWN = "base_fingerprint"  # of each base model that a run trained


@dataclass(frozen=True)
class Run:
    """All that one training left behind, about itself and about one decoded set."""

    decoded: Path  # the set's folder inside the run's own
    record: RunRecord
    decode: DecodeRecord
    score: ScoreReport
    progress: Progress
    settings: Mapping[str, Any]  # of its configuration, without the seed


@dataclass(frozen=True)
class Outcome:
    """The runs of one experiment, which differ in their seeds alone, and the pooled score of all."""

    runs: tuple[Run, ...]  # by seed
    score: ScoreReport

    @property
    def record(self) -> RunRecord:
        """The record of the first run, which tells what all of them share."""
        return self.runs[0].record

    @property
    def name(self) -> str:
        """The name of the experiment."""
        return self.record.name

    @property
    def seeds(self) -> list[int]:
        """The seeds of the runs, in order."""
        return [run.record.seed for run in self.runs]


@dataclass(frozen=True)
class Comparison:
    """Experiments on one set, and those among them that all are compared with."""

    outcomes: tuple[Outcome, ...]
    baselines: tuple[Outcome, ...]

    @property
    def set_name(self) -> str:
        """The name of the set."""
        return self.outcomes[0].runs[0].decode.set_name


def load(folders: Sequence[Path], set_name: str | None = None, *, minus: Sequence[str] = ()) -> Comparison:
    """Read runs and their scores on one set, which may go unnamed where each has decoded only that.

    Runs of one name become one experiment. All are compared with the experiments named in `minus`, else with
    the one of kind `none`, else with the first.
    """
    if not folders:
        raise AdaptkitError("no experiment to report; name folders such as exp/none exp/residual")
    scored = [_find_decoded(Path(folder), set_name) for folder in folders]
    if len({decoded.name for decoded in scored}) > 1:
        seen = listed(str(decoded) for decoded in scored)
        raise ScoringError(f"experiments decoded different sets: {seen}; choose one with --test-set")
    runs = [_load(decoded) for decoded in scored]
    _refuse_unlike(runs)
    _refuse_other_bases(runs)
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.record.name, []).append(run)
    outcomes = tuple(map(_gather, groups.values()))
    return Comparison(outcomes, _find_named(outcomes, minus) or (find_baseline(outcomes),))


def find_baseline(outcomes: Sequence[Outcome]) -> Outcome:
    """Give the experiment of kind `none`, else the first."""
    return next((outcome for outcome in outcomes if outcome.record.kind == "none"), outcomes[0])


def _find_decoded(folder: Path, set_name: str | None) -> Path:
    """Find the folder of a run that holds the set's hypotheses and score."""
    if not folder.is_dir():
        known = [str(path) for path in folder.parent.glob("*") if path.is_dir()]
        raise AdaptkitError(f"{folder}: no such experiment{nearest(str(folder), known)}")
    run = RunFolder(folder)
    found = run.decoded_sets()
    if not found:
        raise ScoringError(f"{folder}: holds no decode_<set>; 'adaptkit decode' makes it")
    if set_name is None and len(found) > 1:
        raise ScoringError(f"{folder}: several sets are decoded; choose one with --test-set: {listed(found)}")
    if set_name is None:
        return run.decoded(found[0])
    if set_name not in found:
        raise ScoringError(
            f"{folder}: set {set_name} is not decoded, only: {listed(found)}; 'adaptkit decode' does it"
        )
    return run.decoded(set_name)


def _load(decoded: Path) -> Run:
    folder = DecodeFolder(decoded)
    decode = DecodeRecord.read(folder.record)
    if not folder.score.exists():
        remedy = f"'adaptkit score data/{decode.set_name} {decoded}' makes it"
        raise ScoringError(f"{folder.score}: no such file; {remedy}")
    log, settings = folder.run.log, folder.run.config
    return Run(
        decoded=decoded,
        record=RunRecord.read(folder.run.record),
        decode=decode,
        score=score_files.read(folder.score),
        progress=read_progress(log) if log.exists() else Progress(),  # the base alone has no training
        settings=_without_seed(read_yaml(settings)) if settings.exists() else {},
    )


def _without_seed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Give what the seeds of one experiment share: `train.seed` and what changes no result are left out.

    Of a base model it is the model, less the place of its statistics.
    """
    if "normalize_conf" in settings:
        return {key: value for key, value in settings.items() if key != "normalize_conf"}
    train = {key: value for key, value in (settings.get("train") or {}).items() if key not in _NOT_SHARED}
    return {**settings, "train": train}


def _refuse_unlike(runs: Sequence[Run]) -> None:
    """Refuse runs that were not scored on the same references and speakers."""
    refs = [{u.utt_id: (u.speaker, u.words.words) for u in run.score.utterances} for run in runs]
    unlike = [str(run.decoded) for run, own in zip(runs, refs, strict=True) if own != refs[0]]
    if unlike:
        what = f"{listed(unlike)}: references or speakers are not those of {runs[0].decoded}"
        raise ScoringError(f"{what}; run 'adaptkit score' on all of them with one data directory")


def _refuse_other_bases(runs: Sequence[Run]) -> None:
    """Refuse adapters of different base models, which the difference would hide in; bases may differ."""
    adapted = [run for run in runs if run.record.kind != "base"]
    unlike = [run for run in adapted if run.record.base_fingerprint != adapted[0].record.base_fingerprint]
    if unlike:
        folders = listed(dict.fromkeys(str(run.decoded.parent) for run in unlike))
        raise ScoringError(
            f"{folders}: of another base model than {adapted[0].decoded.parent}; report those of one base"
        )


def _gather(runs: Sequence[Run]) -> Outcome:
    """Make one experiment of the runs of one name."""
    runs = sorted(runs, key=lambda run: run.record.seed)
    for one, other in pairwise(runs):
        folders = f"{one.decoded.parent}, {other.decoded.parent}"
        name = f"experiment '{one.record.name}'"
        if one.record.seed == other.record.seed:
            raise AdaptkitError(f"{folders}: both are {name} with seed {one.record.seed}; leave one out")
        shared = [key for key in _SHARED if key != _OWN or one.record.kind != "base"]
        unlike = [key for key in shared if getattr(one.record, key) != getattr(other.record, key)]
        keys = sorted({*one.settings, *other.settings})
        unlike += [f"{key}:" for key in keys if one.settings.get(key) != other.settings.get(key)]
        if unlike:
            remedy = "give each configuration a name of its own"
            raise AdaptkitError(f"{folders}: both are {name} but differ in {listed(unlike)}; {remedy}")
    return Outcome(tuple(runs), pool([run.score for run in runs]))


def _find_named(outcomes: Sequence[Outcome], names: Sequence[str]) -> tuple[Outcome, ...]:
    """Find experiments by name."""
    known = {outcome.name: outcome for outcome in outcomes}
    unknown = [f"'{name}'{nearest(name, known)}" for name in names if name not in known]
    if unknown:
        raise AdaptkitError(f"--minus: no experiment {listed(unknown)}; there are {listed(known, 20)}")
    return tuple(known[name] for name in dict.fromkeys(names))
