"""Collect experiments for a report: the runs of each over its seeds, and their scores."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from adaptkit.characters import visible
from adaptkit.config import read_yaml
from adaptkit.errors import AdaptkitError, ScoringError, listed, nearest
from adaptkit.files import checksum
from adaptkit.folders import DecodeFolder, RunFolder
from adaptkit.records import DecodeRecord, LearningCurves, RunRecord, read_curves
from adaptkit.scoring import files as score_files
from adaptkit.scoring.comparison import compare
from adaptkit.scoring.origin import describe_score, find_changed
from adaptkit.scoring.wer import Difference, ScoreReport, pool

_SHARED = ("kind", "tasks", "base_fingerprint", "params_base", "params_trainable", "params_per_task")
_NOT_SHARED = ("seed", "num_workers", "save_every_steps")  # of `train:`
_DECODING = ("search", "lm_sha256", "route")
_OWN = "base_fingerprint"  # differs between runs that trained a base model


@dataclass(frozen=True)
class Run:
    """A training run, and its scores on one decoded set."""

    decoded: Path  # the decode folder of the set, inside the run's folder
    record: RunRecord
    decode: DecodeRecord
    score: ScoreReport
    progress: LearningCurves
    settings: Mapping[str, Any]  # its configuration, without the seed

    @property
    def base_fingerprint(self) -> str:
        """The base model that decoded the set."""
        return self.decode.base_fingerprint or self.record.base_fingerprint


@dataclass(frozen=True)
class ExperimentResult:
    """The runs of one experiment, which differ in their seeds only, and their pooled score."""

    runs: tuple[Run, ...]  # by seed
    score: ScoreReport

    @property
    def record(self) -> RunRecord:
        """The record of the first run, for what all runs share."""
        return self.runs[0].record

    @property
    def name(self) -> str:
        """The name of the experiment, on one line."""
        return visible(self.record.name)

    @property
    def seeds(self) -> list[int]:
        """The seeds of the runs, in order."""
        return [run.record.seed for run in self.runs]

    @property
    def unimproved(self) -> list[str]:
        """The speakers for whom a run kept the weights of its start, sorted."""
        return sorted(set().union(*(run.record.unimproved for run in self.runs)))

    def of_group(self, group: str) -> "ExperimentResult":
        """Return the runs with their scores on the utterances of a group."""
        runs = tuple(replace(run, score=run.score.of_group(group)) for run in self.runs)
        return ExperimentResult(runs, self.score.of_group(group))

    def minus(self, base: "ExperimentResult") -> Difference:
        """Estimate the paired difference to another experiment, speakers counted in each pair of runs."""
        pairs = [(run.score, other.score) for run in self.runs for other in base.runs]
        return compare(self.score, base.score, name=base.name, runs=pairs)


@dataclass(frozen=True)
class Comparison:
    """Experiments on one set, and the baselines among them."""

    results: tuple[ExperimentResult, ...]
    baselines: tuple[ExperimentResult, ...]

    @property
    def set_name(self) -> str:
        """The name by which the set was asked for, that of its decode folders, on one line."""
        return visible(DecodeFolder(self.results[0].runs[0].decoded).name)

    @property
    def groups(self) -> list[str]:
        """The groups of utterances, sorted by name; none if the data has none."""
        return self.results[0].score.groups

    @cached_property
    def differences(self) -> list[list[Difference | None]]:
        """The paired differences of each experiment to each baseline; None for the baseline itself."""
        return [[None if base is one else one.minus(base) for base in self.baselines] for one in self.results]

    def differences_of(self, result: ExperimentResult) -> list[Difference | None]:
        """Return the paired differences of one of the experiments to each baseline."""
        return next(own for one, own in zip(self.results, self.differences, strict=True) if one is result)

    def of_group(self, group: str) -> "Comparison":
        """Return the same experiments on the utterances of a group."""
        results = {id(one): one.of_group(group) for one in self.results}
        return Comparison(tuple(results.values()), tuple(results[id(base)] for base in self.baselines))


def load(folders: Sequence[Path], set_name: str | None = None, *, minus: Sequence[str] = ()) -> Comparison:
    """Read runs and their scores on one set; the set may be omitted if each run has decoded only one.

    Runs with the same name form one experiment. The baselines are the experiments named in `minus`, by
    default the one without adapters (`none`), else the first.
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
    results = tuple(map(_gather, groups.values()))
    return Comparison(results, _find_named(results, minus) or (find_baseline(results),))


def find_baseline(results: Sequence[ExperimentResult]) -> ExperimentResult:
    """Return the experiment without adapters (`none`), else the first."""
    return next((result for result in results if result.record.kind == "none"), results[0])


def _find_decoded(folder: Path, set_name: str | None) -> Path:
    """Find the decode folder of a set in the folder of a run."""
    if not folder.is_dir():
        known = [str(path) for path in folder.parent.glob("*") if path.is_dir()]
        raise AdaptkitError(f"{folder}: no such experiment{nearest(str(folder), known)}")
    run = RunFolder(folder)
    found = run.decoded_sets()
    if not found:
        raise ScoringError(f"{folder}: has no decode_<set>; 'adaptkit decode' creates it")
    if set_name is None and len(found) > 1:
        raise ScoringError(f"{folder}: several sets are decoded; choose one with --test-set: {listed(found)}")
    if set_name is None:
        return run.decoded(found[0])
    if set_name not in found:
        raise ScoringError(
            f"{folder}: set {set_name} is not decoded, only {listed(found)}; run 'adaptkit decode'"
        )
    return run.decoded(set_name)


def _load(decoded: Path) -> Run:
    folder = DecodeFolder(decoded)
    decode = DecodeRecord.read(folder.record)
    record = RunRecord.read(folder.run.record)
    _refuse_retrained(folder, decode, record)
    score = _load_score(folder, decode)
    log, settings = folder.run.log, folder.run.config
    return Run(
        decoded=decoded,
        record=record,
        decode=decode,
        score=score,
        progress=read_curves(log) if log.exists() else LearningCurves(),  # the base model alone has none
        settings=_find_start(_without_seed(read_yaml(settings))) if settings.exists() else {},
    )


def _refuse_retrained(folder: DecodeFolder, decode: DecodeRecord, record: RunRecord) -> None:
    """Refuse hypotheses of other weights than those in the record, or in the files as they are now."""
    files = {folder.path / name: own for name, own in decode.weights.items()}
    changed = [file for file, own in files.items() if file.is_file() and checksum(file) != own]
    base = RunFolder(folder.path / decode.base).record if decode.base else Path()
    own, now = decode.base_fingerprint, record.base_fingerprint if record.kind == "base" else ""
    if not now and base.is_file():
        now = RunRecord.read(base).base_fingerprint
    if changed:
        what = f"{listed(map(os.path.normpath, changed), 5)} as it is now"
    elif own and now and own.partition("-")[0] != now.partition("-")[0]:  # whatever the prompt
        what = f"base model {now}"
    elif record.kind == "none" and decode.weights:
        what = f"the base model alone, as {folder.run.record} says"
    else:
        return
    remedy = "run 'adaptkit decode' and 'adaptkit score' again"
    raise ScoringError(f"{folder.path}: not decoded with {what}; {remedy}")


def _load_score(folder: DecodeFolder, decode: DecodeRecord) -> ScoreReport:
    """Read the score of the hypotheses that are in the folder now, against the present references."""
    data = decode.data or f"data/{decode.set_name}"
    if not folder.score.exists():
        if decode.data and Path(decode.data).is_dir():
            score_files.read_references(Path(decode.data))  # refused if there are none
        remedy = f"'{describe_score({}, (), folder.path, data)}' creates it"
        raise ScoringError(f"{folder.score}: no such file; {remedy}")
    score = score_files.read(folder.score)
    again = f"'{describe_score(score.sources, score.normalize, folder.path, data)}' writes it again"
    if not {"ref", "hyp"} <= score.sources.keys():
        raise ScoringError(f"{folder.score}: does not say what was scored, as earlier versions; {again}")
    if not folder.text.is_file():
        raise ScoringError(f"{folder.text}: no such file; 'adaptkit decode' writes it, then {again}")
    changed = find_changed(score.sources, folder.path)
    if changed:
        raise ScoringError(f"{folder.score}: older than {listed(changed)}, which changed since; {again}")
    return score


def _without_seed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that the seeds of an experiment share, without the seed and what affects no result.

    For a base model these are the model's, without the path of its statistics.
    """
    if "normalize_conf" in settings:
        return {key: value for key, value in settings.items() if key != "normalize_conf"}
    train = settings.get("train")
    kept = train.items() if isinstance(train, dict) else ()
    return {**settings, "train": {key: value for key, value in kept if key not in _NOT_SHARED}}


def _find_start(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Put the start's settings in the place of its folder, since each seed may start from one of its own."""
    train = settings.get("train", {})
    start = RunFolder(Path(str(train.get("start")))).config
    found = {"start": _without_seed(read_yaml(start))} if train.get("start") and start.exists() else {}
    return {**settings, "train": {**train, **found}} if found else settings


def _refuse_unlike(runs: Sequence[Run]) -> None:
    """Refuse runs that were not scored on the same references, speakers and groups."""
    refs = [{u.utt_id: (u.speaker, u.group, u.words.words) for u in run.score.utterances} for run in runs]
    unlike = [str(run.decoded) for run, own in zip(runs, refs, strict=True) if own != refs[0]]
    if len({run.decode.set_name for run in runs}) > 1:
        described = listed(f"{run.decoded} ({visible(run.decode.set_name)})" for run in runs)
        raise ScoringError(f"{described}: of different sets; decode one set with all of them")
    forms = {run.score.normalize for run in runs}
    if len(forms) > 1:
        described = " and ".join(", ".join(form) or "none" for form in sorted(forms))
        folders = listed(str(run.decoded) for run in runs)
        raise ScoringError(f"{folders}: scored with --normalize {described}; score all of them alike")
    if unlike:
        what = f"{listed(unlike)}: references, speakers or groups differ from those of {runs[0].decoded}"
        raise ScoringError(f"{what}; run 'adaptkit score' on all of them with the same data directory")


def _refuse_other_bases(runs: Sequence[Run]) -> None:
    """Refuse adapters of different base models, which are not comparable; base models may differ."""
    adapted = [run for run in runs if run.record.kind != "base"]
    unlike = [run for run in adapted if run.base_fingerprint != adapted[0].base_fingerprint]
    if unlike:
        folders = listed(dict.fromkeys(str(run.decoded.parent) for run in unlike))
        raise ScoringError(
            f"{folders}: for another base model than {adapted[0].decoded.parent}; report one base at a time"
        )


def _gather(runs: Sequence[Run]) -> ExperimentResult:
    """Combine the runs of one name into an experiment."""
    runs = sorted(runs, key=lambda run: run.record.seed)
    for one, other in pairwise(runs):
        folders = f"{one.decoded.parent}, {other.decoded.parent}"
        name = f"experiment '{one.record.name}'"
        if one.record.seed == other.record.seed:
            raise AdaptkitError(f"{folders}: both are {name} with seed {one.record.seed}; omit one")
        shared = [key for key in _SHARED if key != _OWN or one.record.kind != "base"]
        unlike = [key for key in shared if getattr(one.record, key) != getattr(other.record, key)]
        keys = sorted({*one.settings, *other.settings}, key=str)
        unlike += [f"{key}:" for key in keys if one.settings.get(key) != other.settings.get(key)]
        remedy = "use a different name for each configuration"
        if not unlike:
            unlike = [key for key in _DECODING if getattr(one.decode, key) != getattr(other.decode, key)]
            remedy = "decode all its runs alike"
        if unlike:
            raise AdaptkitError(f"{folders}: both are {name} but differ in {listed(unlike)}; {remedy}")
    return ExperimentResult(tuple(runs), pool([run.score for run in runs]))


def _find_named(results: Sequence[ExperimentResult], names: Sequence[str]) -> tuple[ExperimentResult, ...]:
    """Find experiments by name."""
    known = {result.name: result for result in results}
    unknown = [f"'{name}'{nearest(name, known)}" for name in names if name not in known]
    if unknown:
        raise AdaptkitError(
            f"--minus: no experiment {listed(unknown)}; the experiments are {listed(known, 20)}"
        )
    return tuple(known[name] for name in dict.fromkeys(names))
