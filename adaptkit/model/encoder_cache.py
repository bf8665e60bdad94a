"""Encoder outputs for adapters outside the encoder: computed in inference mode and cached on request."""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed, nn

from adaptkit import locks
from adaptkit.adapters.api import Adapter, AdapterConfig, AdapterStack
from adaptkit.adapters.site import Site
from adaptkit.base.checkpoint import BaseModel
from adaptkit.base.loss import adds_inner_ctc, has_inner_ctc, inner_ctc_loss
from adaptkit.base.padding import ignoring_padding
from adaptkit.base.sites import attached
from adaptkit.base.weights import leaving_no_trace
from adaptkit.data.batches import Batch, load_batches, plan_batches
from adaptkit.data.dataset import Examples
from adaptkit.errors import ConfigError, listed
from adaptkit.features.archive import find_damage, read_record, write_archive, write_record
from adaptkit.kaldi.tables import read_table, write_table
from adaptkit.progress import counting

_LOG = logging.getLogger(__name__)


def find(base: BaseModel, adapters: AdapterStack) -> tuple[Site, ...]:
    """List the sites the adapters read, encoder output last; empty if one acts inside the encoder."""
    if _kinds_inside(base.model, adapters):
        return ()
    return (*adapters.taps, *(site for site in base.sites if site.kind == "encoder_out"))


def read(model: nn.Module, sites: Sequence[Site], batch: Batch, *, for_loss: bool = True) -> Batch:
    """Replace the inputs of a batch by the outputs of the sites, concatenated in order (B, U, sum of D).

    The encoder runs in inference mode and keeps nothing for a backward pass. With `for_loss` the batch also
    gets the loss of intermediate CTC, which needs the outputs of blocks and is constant.
    """
    recorder = _Recorder()
    stack = AdapterStack([recorder], [AdapterConfig(kind="taps")], ["all"])
    with (
        torch.inference_mode(),
        attached(model, stack, tuple(sites)),
        stack.for_tasks([0] * len(batch.utt_ids), batch.inputs.device),
    ):
        encoded, frames = model.encode(batch.inputs.clone(), batch.lengths)  # ESPnet modifies its input
        text = {"tokens": batch.tokens, "token_lengths": batch.token_lengths}
        inner = inner_ctc_loss(model, encoded, frames=frames, **text) if for_loss else None
    read = replace(batch, inputs=torch.cat(recorder.read, -1), lengths=frames.clone(), has_taps=True)
    return read if inner is None else replace(read, inner_ctc=inner.clone())


def replay(adapters: AdapterStack, sites: Sequence[Site], inputs: Tensor, frames: Tensor) -> Tensor:
    """Apply adapters to the site outputs of `read` (B, U, sum of D), frames (B,) of each row.

    Returns the encoder output (B, U, D).
    """
    for member in adapters:
        member.begin()
    try:
        for site, x in zip(sites, inputs.split([site.dim_out for site in sites], -1), strict=True):
            encoded = adapters.adapt(site, x, x, frames if site.kind == "encoder_out" else None)
    finally:
        for member in adapters:
            member.end()
    return encoded


def cached(examples: Examples, adapters: AdapterStack, path: Path, *, batch_frames: int) -> Examples:
    """Replace the inputs of examples by the site outputs that adapters read, cached in `path`.ark and .scp.

    The first process writes the cache once, in float32; it is reused while it is complete and matches the
    base model, blocks and utterances.
    """
    if examples.augmentation is not None:
        raise ConfigError(
            "adapters: 'cache: true' stores the encoder outputs of unaugmented features, but 'augment' "
            "changes the features in every epoch; set 'cache: false' or 'augment: null'"
        )
    inside = _kinds_inside(examples.base.model, adapters)
    if inside:
        raise ConfigError(
            f"adapters: 'cache: true' stores encoder outputs, but {listed(inside)} needs the encoder to run "
            "in every step; set 'cache: false', or remove that adapter"
        )
    if not distributed.is_initialized() or distributed.get_rank() == 0:
        with locks.hold(path.parent):
            _write(examples, find(examples.base, adapters), path, batch_frames)
    if distributed.is_initialized():
        distributed.barrier()
    megabytes = path.with_suffix(".ark").stat().st_size >> 20
    _LOG.info("%s.ark: %d MB of cached encoder outputs, kept after training", path, megabytes)
    losses = (
        dict(read_record(path.with_suffix(".ark")).losses) if adds_inner_ctc(examples.base.model) else None
    )
    return replace(examples, taps=read_table(path.with_suffix(".scp")), inner_ctc=losses)


class _Recorder(Adapter):
    """A stand-in for adapters that records the output of each site and changes nothing."""

    wants = frozenset({"block", "encoder_out"})

    def begin(self) -> None:
        self.read: list[Tensor] = []

    def adapt(self, site: Site, x_in: Tensor, x_out: Tensor) -> Tensor:
        self.read.append(x_out)
        return x_out


def _kinds_inside(model: nn.Module, adapters: AdapterStack) -> list[str]:
    """Name the adapter types that need more than the outputs of the unadapted encoder.

    With intermediate CTC the encoder uses the CTC weights; a postencoder would have to run again; and the
    intermediate CTC of OWSM-CTC learns several texts.
    """
    is_prompted = model.prompting is not None and not model.prompting.has_decoder
    shut, ctc_inside = model.postencoder is not None or is_prompted, has_inner_ctc(model)
    return [
        config.kind
        for config, member in zip(adapters.configs, adapters, strict=True)
        if shut or not member.spares_encoder or (ctc_inside and "weight" in member.wants)
    ]


def _write(examples: Examples, sites: Sequence[Site], path: Path, batch_frames: int) -> None:
    """Write the site outputs of every utterance and then their record, unless both exist and are intact."""
    ark, scp = path.with_suffix(".ark").resolve(), path.with_suffix(".scp")
    made_of = f"{_digest(examples, sites)} {ark}"
    if scp.exists() and not find_damage(ark, made_of):
        return
    losses: dict[str, float] = {}

    def matrices() -> Iterator[tuple[str, np.ndarray]]:
        for utt_id, x, loss in _read_all(examples, sites, batch_frames):
            if loss is not None:
                losses[utt_id] = loss
            yield utt_id, x.numpy()

    record = write_archive(ark, matrices(), made_of=made_of)
    write_table(scp, {utt_id: f"{ark}:{offset}" for utt_id, (offset, *_) in record.entries.items()})
    write_record(ark, replace(record, losses=losses))


def _read_all(
    examples: Examples, sites: Sequence[Site], batch_frames: int
) -> Iterator[tuple[str, Tensor, float | None]]:
    """Yield each utterance with its site outputs (U, sum of D), and its loss of intermediate CTC if any."""
    model = examples.base.model
    device = next(model.parameters()).device
    plan = plan_batches(examples.lengths, batch_frames, groups=examples.groups(None))
    with ignoring_padding(model), leaving_no_trace(model), counting("caching", len(examples)) as advance:
        for batch in load_batches(examples, plan):
            taps = read(model, sites, batch.to(device))
            losses = [None] * len(taps.utt_ids) if taps.inner_ctc is None else taps.inner_ctc.tolist()
            rows = zip(taps.utt_ids, taps.inputs.cpu(), taps.lengths.tolist(), losses, strict=True)
            for utt_id, x, frames, loss in rows:
                yield utt_id, x[:frames].float(), loss
            advance(len(batch.utt_ids), "")


def _digest(examples: Examples, sites: Sequence[Site]) -> str:
    """Hash everything the cache depends on; feature and audio files are identified by modification time."""
    data, base = examples.data, examples.base
    rows = []
    for u, length in zip(data.utterances, examples.lengths, strict=True):
        place = data.recordings[u.recording] if base.features is None else data.feats[u.utt_id]
        files = filter(os.path.isfile, (place, place.rpartition(":")[0]))
        text = [u.text] if adds_inner_ctc(base.model) else []  # the loss of intermediate CTC depends on it
        rows.append([u.utt_id, u.start_sec, u.end_sec, length, place, *map(os.path.getmtime, files), *text])
    content = json.dumps([base.fingerprint, [site.name for site in sites], rows])
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
