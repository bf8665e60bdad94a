"""Decode a data directory to a folder of hypotheses: `adaptkit decode`."""

import logging
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from adaptkit import config, locks, tokens
from adaptkit.adapters.per_task import shared_parameters
from adaptkit.base.checkpoint import BaseModel
from adaptkit.data.dataset import Examples, read_examples
from adaptkit.decoding.models import ModelOptions, Source, find_source
from adaptkit.decoding.nbest import write_nbest
from adaptkit.decoding.recognizer import Recognizer, opened
from adaptkit.decoding.routing import measure_accuracy, write_routes
from adaptkit.errors import AdaptkitError, ConfigError, listed
from adaptkit.folders import DecodeFolder, RunFolder, named
from adaptkit.kaldi.columns import Table
from adaptkit.kaldi.overlap import read_texts, warn_of_sentences
from adaptkit.kaldi.tables import write_table
from adaptkit.provenance import peak_memory_mb
from adaptkit.records import DecodeRecord, RecordedModel, write_record
from adaptkit.scoring import files as scoring
from adaptkit.scoring.wer import ScoreReport
from adaptkit.submodels.router import RouteOptions

BASE_ALONE = "none"  # the experiment without adapters, the baseline of a report
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class DecodeOptions(ModelOptions):
    """The model and search for decoding, the data directory, and the output folder."""

    data: Path
    out: Path | None = None


def decode_folder(options: DecodeOptions, *, device: str) -> Path:
    """Write `text`, `utt2score` and `run.json` for a data directory; return their folder.

    The data directory needs no `text`. Scores of earlier hypotheses in the folder are removed.

    Unless `out` is given, results of the base model alone go to an experiment `none` beside EXP, and results
    with Submodels go to the folder of Submodels. If utterances are routed, `routes.tsv` has the choice for
    each, and the folder is named after the route.
    """
    options = replace(options, exp=named(options.exp), data=named(options.data))
    source = find_source(options)
    usual = _default_folder(options, source.base_only)
    out = DecodeFolder(options.out or usual)
    _refuse_taken(out, usual)
    with locks.hold(out.path):
        _decode(options, source, out, device=device)
    return out.path


def _decode(options: DecodeOptions, source: Source, out: DecodeFolder, *, device: str) -> None:
    def read(base: BaseModel) -> Examples:
        return read_examples(options.data, base, allow_pipes=options.allow_pipes, needs_text=False)

    with opened(options, source, read, device=device) as (model, examples):
        _warn_of_training(source, examples)
        _warn_of_unknown(model.base, examples)
        started = time.monotonic()
        decoded = model.recognise(examples)
        seconds, known = time.monotonic() - started, model.known
    found, chosen, searcher = decoded.hypotheses, decoded.chosen, model.searcher
    accuracy = None
    _warn_of_another_set(out, options.data)
    out.clear()
    if options.is_routed:
        write_routes(out.routes, examples, chosen)
        is_chosen = options.route.method != "shared" and not options.route.without_own
        accuracy = measure_accuracy(examples, chosen, known) if is_chosen else None
        _log_accuracy(out.path, accuracy)
    if searcher.nbest > 1:
        write_nbest(out, found, model.base.tokens)
    write_table(out.scores, {h.utt_id: f"{h.score:.4f}" for h in found})
    write_table(out.text, {h.utt_id: h.text for h in found})
    _write_record(out.path, options, model, device)
    DecodeRecord(
        set_name=options.data.name,
        num_utterances=len(found),
        audio_sec=examples.audio_sec,
        decode_seconds=seconds,
        peak_mb=peak_memory_mb(),
        batch_size=max(1, options.batch_frames // max(1, *examples.lengths)),
        base_only=source.base_only,
        data=str(options.data),
        base_fingerprint=model.base.fingerprint,
        adapter_checksum=model.adapter_checksum,
        search=config.dump(searcher.options),
        search_reason=searcher.reason,
        lm=None if searcher.lm is None else str(searcher.lm.path),
        lm_sha256=None if searcher.lm is None else searcher.lm.digest,
        route=asdict(options.route) if options.is_routed else None,
        route_accuracy=accuracy,
    ).write(out.record)


def _refuse_taken(out: DecodeFolder, usual: Path) -> None:
    """Refuse the folder of an experiment, a base model or a data set, whose files would be replaced."""
    run = RunFolder(out.path)
    taken = (run.config, run.adapter, run.model, out.path / "wav.scp")
    found = [path.name for path in taken if path.exists()]
    if found:
        raise ConfigError(f"--out {out.path}: holds {listed(found)}; name another folder, such as {usual}")


def _warn_of_another_set(out: DecodeFolder, data: Path) -> None:
    """Warn if the folder holds hypotheses of a data directory elsewhere, as its name is that of the set."""
    with suppress(AdaptkitError):  # of no record, or of a damaged one, which is replaced
        before = DecodeRecord.read(out.record).data
        if before and Path(before).resolve() != data.resolve():
            _LOG.warning("%s: replaces the hypotheses of %s by those of %s", out.path, before, data)


def _warn_of_training(source: Source, examples: Examples) -> None:
    """Warn of sentences on which the model was trained, if an experiment names its sets and they exist."""
    settings = source.experiment
    if settings is None:
        return
    sets = [settings.base.data, None if source.base_only else settings.data]
    for train in dict.fromkeys(own.train for own in sets if own is not None):
        warn_of_sentences(train, read_texts(train), examples.data)


def _warn_of_unknown(base: BaseModel, examples: Examples) -> None:
    """Warn of references that the base model cannot write; sets without texts have none."""
    utterances = examples.data.utterances
    texts = Table(utterances.ids, utterances.texts)
    tokens.warn_of_unknown(base.tokens, texts, str(examples.data.path), str(base.path))


def decode_and_score(exp: Path, data: Path, *, batch_frames: int, device: str) -> ScoreReport:
    """Decode a data directory with an experiment, and score the result against its references."""
    options = DecodeOptions(exp=exp, data=data, batch_frames=batch_frames)
    decoded = decode_folder(options, device=device)
    report = scoring.score_files(data, decoded)
    scoring.write(report, decoded)
    return report


def _default_folder(options: DecodeOptions, base_only: bool) -> Path:
    own = options.submodels or options.exp
    parent = options.exp.parent / BASE_ALONE if base_only else own
    return RunFolder(parent).decoded("_".join([options.data.name, *_describe_route(options.route)]))


def _describe_route(route: RouteOptions) -> list[str]:
    """Return the parts of a route that end the folder's name; empty for the default."""
    if route.method == "own":
        return []
    nearest = [] if route.nearest is None else [f"nearest{route.nearest}"]
    others = {"by_speaker": route.by == "speaker", "without_own": route.without_own}
    return [route.method, *nearest, *(name for name, is_so in others.items() if is_so)]


def _log_accuracy(out: Path, accuracy: float | None) -> None:
    if accuracy is not None:
        _LOG.info("%s: %.1f %% of known speakers' utterances got their own weights", out, accuracy)


def _write_record(out: Path, options: DecodeOptions, model: Recognizer, device: str) -> None:
    """Write the record of a model without one from training: base model, Submodels or a routed choice."""
    made = _recorded_model(out, options, model)
    if made is not None:
        write_record(
            out.parent,
            made,
            base_fingerprint=model.base.fingerprint,
            params_base=model.base.num_parameters,
            device=device,
        )


def _recorded_model(out: Path, options: DecodeOptions, model: Recognizer) -> RecordedModel | None:
    submodels, folder = model.submodels, RunFolder(out.parent)
    is_ours = folder.path == options.submodels or not folder.record.exists()
    if submodels is not None and out.name.startswith("decode_") and is_ours:
        num_each, tasks = submodels.stack.num_per_task, submodels.known()
        num_shared = sum(parameter.numel() for _, parameter in shared_parameters(submodels.stack))
        kind, num_all = submodels.stack.kind, num_shared + len(tasks) * num_each
        return RecordedModel(folder.path.resolve().name, kind, tasks, num_all, num_each)
    is_elsewhere = out.name.startswith("decode_") and not folder.record.exists()
    if options.is_routed and is_elsewhere and folder.path.resolve() != options.exp.resolve():
        stack = model.adapters
        counts = stack.num_parameters, stack.num_per_task
        return RecordedModel(folder.path.resolve().name, stack.kind, stack.tasks, *counts)
    if model.adapters is None and folder.path.name == BASE_ALONE:
        return RecordedModel(BASE_ALONE, "none", (), 0, 0)
    return None
