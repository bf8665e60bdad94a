"""Decode a data directory to a folder of hypotheses: `adaptkit decode`."""

import logging
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from adaptkit import config, locks, tokens
from adaptkit.base.checkpoint import BaseModel
from adaptkit.data.dataset import Examples, read_examples
from adaptkit.decoding.destination import (
    BASE_ALONE,
    describe_model,
    refuse_foreign,
    refuse_taken,
    sum_weights,
)
from adaptkit.decoding.models import ModelOptions, Source, find_source
from adaptkit.decoding.nbest import write_nbest
from adaptkit.decoding.recognizer import opened
from adaptkit.decoding.routing import measure_accuracy, write_routes
from adaptkit.errors import AdaptkitError
from adaptkit.folders import DecodeFolder, RunFolder, named
from adaptkit.kaldi.columns import Table
from adaptkit.kaldi.overlap import read_texts, warn_of_sentences
from adaptkit.kaldi.tables import write_table
from adaptkit.provenance import peak_memory_mb
from adaptkit.records import DecodeRecord, write_record
from adaptkit.scoring import files as scoring
from adaptkit.scoring.origin import describe_searches, find_way
from adaptkit.scoring.wer import ScoreReport
from adaptkit.submodels.router import RouteOptions

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
    refuse_taken(out, usual)
    refuse_foreign(out, options, source, usual)
    with locks.hold(out.path):
        _decode(options, source, out, device=device)
    return out.path


def _decode(options: DecodeOptions, source: Source, out: DecodeFolder, *, device: str) -> None:
    def read(base: BaseModel) -> Examples:
        return read_examples(options.data, base, allow_pipes=options.allow_pipes, needs_text=False)

    with opened(options, source, read, device=device) as (model, examples):
        _warn_of_training(source, examples)
        _warn_of_unknown(model.base, examples)
        tasks = model.known if options.is_routed else examples.data.tasks
        weights, made = sum_weights(model, tasks, out.path), describe_model(out, options, source, model)
        started = time.monotonic()
        decoded = model.recognise(examples)
        seconds, known = time.monotonic() - started, model.known
    found, chosen, searcher = decoded.hypotheses, decoded.chosen, model.searcher
    is_chosen = options.is_routed and options.route.method != "shared" and not options.route.without_own
    accuracy = measure_accuracy(examples, chosen, known) if is_chosen else None
    record = DecodeRecord(
        set_name=options.data.name,
        num_utterances=len(found),
        audio_sec=examples.audio_sec,
        decode_seconds=seconds,
        peak_mb=peak_memory_mb(),
        batch_size=max(1, options.batch_frames // max(1, *examples.lengths)),
        base_only=source.base_only,
        data=str(options.data),
        base_fingerprint=model.base.fingerprint,
        base=find_way(source.base.dir, out.path),
        weights=weights,
        search=config.dump(searcher.options),
        search_reason=searcher.reason,
        lm=None if searcher.lm is None else str(searcher.lm.path),
        lm_sha256=None if searcher.lm is None else searcher.lm.digest,
        route=asdict(options.route) if options.is_routed else None,
        route_accuracy=accuracy,
    )
    _warn_of_others(out, record)
    out.clear()
    if options.is_routed:
        write_routes(out.routes, examples, chosen)
        _log_accuracy(out.path, accuracy)
    if searcher.nbest > 1:
        write_nbest(out, found, model.base.tokens)
    write_table(out.scores, {h.utt_id: f"{h.score:.4f}" for h in found})
    write_table(out.text, {h.utt_id: h.text for h in found})
    if made is not None:
        counts = {"base_fingerprint": model.base.fingerprint, "params_base": model.base.num_parameters}
        write_record(out.run.path, made, **counts, device=device)
    record.write(out.record)


def _warn_of_others(out: DecodeFolder, record: DecodeRecord) -> None:
    """Warn if the folder holds hypotheses of a data directory elsewhere, or of another search."""
    with suppress(AdaptkitError):  # of no record, or of a damaged one, which is replaced
        before = DecodeRecord.read(out.record)
        if before.data and Path(before.data).resolve() != Path(record.data).resolve():
            _LOG.warning(
                "%s: replaces the hypotheses of %s by those of %s", out.path, before.data, record.data
            )
        if found := describe_searches({"before": before, "now": record}, routes=True):
            message = "%s: replaces hypotheses of %s by those of %s; --out keeps both"
            _LOG.warning(message, out.path, found["before"], found["now"])


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
