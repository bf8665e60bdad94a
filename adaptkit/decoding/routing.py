"""Route the utterances of a data set: choose whose weights decode each, without the speaker's name."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from adaptkit.adapters.api import AdapterStack
from adaptkit.adapters.per_task import SHARED
from adaptkit.data.batches import load_batches
from adaptkit.data.dataset import BASE_NAME, BASE_TASK, Examples
from adaptkit.decoding.models import ModelOptions
from adaptkit.errors import ConfigError, counted
from adaptkit.files import write_text
from adaptkit.model.adapted import AdaptedModel
from adaptkit.progress import counting
from adaptkit.submodels.cache import SubmodelCache
from adaptkit.submodels.embeddings import read_embeddings, refuse_missing
from adaptkit.submodels.router import Choice, RouteOptions, Router

_LOG = logging.getLogger(__name__)


def route(
    adapted: AdaptedModel,
    examples: Examples,
    options: RouteOptions,
    *,
    folder: Path,
    batch_frames: int,
    submodels: SubmodelCache | None,
) -> dict[str, Choice]:
    """Choose the weights of every utterance; the model must be in `hooked()`.

    `folder` holds the adapters, or the Submodels of `submodels`, and the embeddings of their speakers. When
    routing by speaker, a speaker's first utterance in the order of ids decides for all.
    """
    known = list(adapted.adapters.tasks) if submodels is None else submodels.known()
    _refuse_impossible(known, options, folder, submodels)
    embeddings = None
    if options.uses_embeddings:
        embeddings = read_embeddings(folder, examples.base)
        refuse_missing(embeddings, [task for task in known if task != SHARED], folder)
    router = Router(adapted, options, batch_frames=batch_frames, submodels=submodels, embeddings=embeddings)
    chosen = _choose_all(router, examples, known, options)
    _log_shares(examples, chosen)
    return chosen


def assign(examples: Examples, chosen: Mapping[str, Choice], tasks: Sequence[str]) -> Examples:
    """Set the task of every utterance to the one chosen for it, with its place in `tasks` as id."""
    utterances = tuple(replace(u, task=chosen[u.utt_id].name) for u in examples.data.utterances)
    numbers = {task: index for index, task in enumerate(tasks)}
    task_ids = {u.task: numbers.get(u.task, BASE_TASK) for u in utterances}
    return replace(examples, data=replace(examples.data, utterances=utterances), task_ids=task_ids)


def measure_accuracy(examples: Examples, chosen: Mapping[str, Choice], known: Sequence[str]) -> float | None:
    """Return the percentage of known speakers' utterances that got their own weights; None without any."""
    names = frozenset(known)
    own = [u for u in examples.data.utterances if u.task in names and u.utt_id in chosen]
    right = sum(chosen[u.utt_id].name == u.task for u in own)
    return 100 * right / len(own) if own else None


def write_routes(path: Path, examples: Examples, chosen: Mapping[str, Choice]) -> None:
    """Write the choice for each utterance and the runner-up as a table with a header."""
    lines = ["utt_id\tspeaker\tchosen\tscore\trunner_up\trunner_up_score"]
    for u in examples.data.utterances:
        if u.utt_id in chosen:
            one = chosen[u.utt_id]
            scores = ["" if x is None else f"{x:.4f}" for x in (one.score, one.runner_up_score)]
            lines.append("\t".join([u.utt_id, u.task, one.name, scores[0], one.runner_up or "", scores[1]]))
    write_text(path, "".join(f"{line}\n" for line in lines))


def _choose_all(
    router: Router, examples: Examples, known: Sequence[str], options: RouteOptions
) -> dict[str, Choice]:
    utterances = examples.data.utterances
    first = {}
    for index, u in enumerate(utterances):
        first.setdefault(u.speaker if options.by == "speaker" else u.utt_id, index)
    device, found = next(examples.base.model.parameters()).device, {}
    with torch.inference_mode(), counting("routing", len(first)) as advance:
        batches = load_batches(examples, [[index] for index in first.values()])
        for (key, index), batch in zip(first.items(), batches, strict=True):
            without = utterances[index].task if options.without_own else None
            found[key] = router.choose(batch.to(device), examples.lengths[index], known, without=without)
            advance(1, "")
    return {u.utt_id: found[u.speaker if options.by == "speaker" else u.utt_id] for u in utterances}


def _refuse_impossible(
    known: Sequence[str], options: RouteOptions, folder: Path, submodels: SubmodelCache | None
) -> None:
    """Refuse a shared adapter that is missing, and more candidates than fit in memory."""
    if options.method == "shared" and SHARED not in known:
        raise ConfigError(
            f"--route shared: {folder} has no shared adapter (speaker '{SHARED}'), and its training "
            "did not start from one (train.start); decode with the experiment that 'adaptkit train --shared' "
            "makes, or use --route likelihood"
        )
    if BASE_NAME in known:
        raise ConfigError(f"{folder}: a speaker is called {BASE_NAME}, which stands for the base model")
    if options.method != "likelihood" or submodels is None:
        return
    num_shared = int(SHARED in known)  # compared in any case
    num_speakers = len(known) - num_shared
    num_compared = min(num_speakers, options.nearest or num_speakers) + num_shared
    if num_compared > submodels.num_slots:
        most = submodels.num_slots - num_shared
        lower = f", or set --route-nearest to {most} or less" if most else ""
        raise ConfigError(
            f"--route likelihood compares {num_compared} Submodels of {submodels.bytes_each:,} bytes, but "
            f"only {submodels.num_slots} fit in memory; raise --submodel-mb to "
            f"{submodels.megabytes(num_compared)}{lower}"
        )


def _log_shares(examples: Examples, chosen: Mapping[str, Choice]) -> None:
    """Log how many utterances got the base model, the shared adapter, or a speaker's weights."""
    counts = Counter(choice.name for choice in chosen.values())
    base, shared, num = counts.pop(BASE_NAME, 0), counts.pop(SHARED, 0), len(chosen)
    _LOG.info(
        "%s: routed %s: %d to the weights of %s, %d to the shared adapter, %d to the base model",
        *(examples.data.path, counted(num, "utterance")),
        *(counts.total(), counted(len(counts), "speaker"), shared, base),
    )


def refuse_unroutable(options: ModelOptions, adapters: AdapterStack | None) -> None:
    """Refuse to choose where there is nothing to choose from."""
    if adapters is None and options.submodels is None:
        raise ConfigError(
            f"--route {options.route.method}: {options.exp} is decoded without adapters, so nothing can be "
            "chosen; name an experiment with adapters, or --submodels, or omit --route"
        )
    if adapters is not None and not adapters.num_per_task:
        raise ConfigError(
            f"--route {options.route.method}: the adapters of {options.exp} are the same for all speakers; "
            "omit --route"
        )
    if options.unknown_speaker != "error":
        raise ConfigError(
            f"--unknown-speaker {options.unknown_speaker}: no effect with --route {options.route.method}, "
            "which does not ask who speaks; omit it"
        )
