"""A base model with its adapters: loss, encoder output and hypotheses of a batch."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from adaptkit.adapters.api import AdapterStack
from adaptkit.augment.specaugment import SpecAugment, augment
from adaptkit.base import owsm
from adaptkit.base.checkpoint import BaseModel
from adaptkit.base.loss import inner_ctc_loss, loss_from_encoded
from adaptkit.base.padding import ignoring_padding
from adaptkit.base.search.choose import quick_searcher
from adaptkit.base.search.likelihood import own_likelihoods
from adaptkit.base.search.paths import BestPath
from adaptkit.base.search.searcher import Searcher
from adaptkit.base.sites import attached, refuse_taps, stop_recomputing
from adaptkit.base.specaug import changing_features
from adaptkit.base.weights import changed, leaving_no_trace
from adaptkit.data.batches import Batch
from adaptkit.model import encoder_cache

# what an encoder returns: x (B, U, D), with intermediate CTC (x, [(block, x of that block), ...])
Encoded = Tensor | tuple[Tensor, list[tuple[int, Tensor]]]


class AdaptedModel(nn.Module):
    """An ESPnet model with adapters, or without any, in which case the model itself is trained.

    With adapters the base model stays frozen and in eval(), and each row of a batch uses the weights of its
    task. Without adapters, a copy of the base model is trained, with dropout and batch statistics active in
    train(), so that models that share a base model do not affect each other. With `is_frozen` it is only run,
    not trained.

    If no adapter acts inside the encoder, the encoder runs in inference mode (`read_taps`) and the adapters
    act on its outputs, so that none of its activations or gradients are kept.

    Rows that `batch.is_masked` selects are masked with `spec`, in train() and eval() alike.
    """

    def __init__(
        self,
        base: BaseModel,
        adapters: AdapterStack | None = None,
        spec: SpecAugment | None = None,
        *,
        is_frozen: bool = False,
    ):
        super().__init__()
        if adapters is not None:
            refuse_taps(base.model.encoder, adapters)
        self.is_frozen = is_frozen or adapters is not None  # whether the base model is
        self.espnet = base.model if self.is_frozen else copy.deepcopy(base.model).requires_grad_(True)
        self.adapters, self.sites, self.spec = adapters, base.sites, spec
        self.taps = (
            () if adapters is None else encoder_cache.find(base, adapters)
        )  # empty: the adapters act through hooks
        self.ctc_dropout = base.config["ctc_conf"].get("dropout_rate", 0.0)

    @property
    def trained(self) -> nn.Module:
        """The module whose weights are trained: the adapters, or the whole model."""
        return self.espnet if self.adapters is None else self.adapters

    def train(self, mode: bool = True) -> "AdaptedModel":
        """Set the mode of the trained module; a frozen base stays in eval() to keep its batch statistics."""
        self.training = mode
        self.trained.train(mode)
        if self.is_frozen:
            self.espnet.eval()
        if self.adapters is not None and mode:
            stop_recomputing(self.espnet)
        if self.espnet.ctc is not None:  # ESPnet's CTC applies dropout in eval() too
            self.espnet.ctc.dropout_rate = self.ctc_dropout if self.espnet.training else 0.0
        return self

    def forward(self, batch: Batch) -> Tensor:
        """Return `loss(batch)`; DistributedDataParallel intercepts only calls of the module itself."""
        return self.loss(batch)

    def loss(self, batch: Batch) -> Tensor:
        """Return the model's CTC, attention or hybrid loss averaged over the utterances, a scalar."""
        batch = self.read_taps(batch)
        groups = self._groups(batch)
        if len(groups) == 1:
            return self._loss(batch)
        if self.adapters.mixes_tasks:
            losses = [self._loss_of(batch, *found) for found in self._encoded(batch)]
        else:
            losses = [self._loss(batch.rows(rows)) for rows in groups]
        shares = [len(rows) / len(batch.utt_ids) for rows in groups]
        return torch.stack([loss * share for loss, share in zip(losses, shares, strict=True)]).sum()

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the encoder output (B, U, D) and its length in frames for each row (B,)."""
        passes = list(self._passes(batch))
        own = {row: encoded[row] for rows, encoded, _ in passes for row in rows}
        return torch.stack([own[row] for row in range(len(own))]), passes[0][2]

    def recognise(self, batch: Batch, searcher: Searcher | None = None) -> list[list[BestPath]]:
        """Return the n-best hypotheses of each row, best first; by default by the model's fastest search."""
        paths = dict(self.recognise_rows(batch, searcher or quick_searcher(self.espnet)))
        return [paths[row] for row in range(len(paths))]

    def recognise_rows(
        self, batch: Batch, searcher: Searcher, is_wanted: Callable[[int], bool] | None = None
    ) -> Iterator[tuple[int, list[BestPath]]]:
        """Yield rows with their n best hypotheses as they are found, except rows no longer wanted by then.

        The search runs within the pass, with the weights of the rows' tasks active.
        """
        for rows, encoded, frames in self._passes(batch):
            yield from searcher.find(self.espnet, encoded, frames, rows, is_wanted)

    def measure_rows(self, batch: Batch, *, searches: bool) -> tuple[list[float], list[list[BestPath]]]:
        """Return each row's loss and, if asked for, the fastest search's hypotheses, by one encoder pass.

        A row's loss is that of the row alone, even where the model's own loss couples the rows.
        """
        batch = self.read_taps(batch)
        losses: dict[int, Tensor] = {}
        paths: dict[int, list[BestPath]] = {}
        for rows, encoded, frames in self._encoded(batch):
            for row in rows:
                losses[row] = self._loss_of(batch, [row], encoded, frames).float().squeeze()
            if searches:
                found = quick_searcher(self.espnet).find(self.espnet, _last(encoded), frames, rows)
                paths |= dict(found)
        ordered = torch.stack([losses[row] for row in range(len(losses))])
        return ordered.tolist(), [paths[row] for row in range(len(paths))]

    def own_likelihoods(self, batch: Batch) -> list[float]:
        """Return the log-likelihood per frame of each row's best text with the weights of its task."""
        found: dict[int, float] = {}
        for rows, encoded, frames in self._passes(batch):
            found |= zip(rows, own_likelihoods(self.espnet, encoded, frames, rows), strict=True)
        return [found[row] for row in range(len(found))]

    def read_taps(self, batch: Batch, *, for_loss: bool = True) -> Batch:
        """Replace the inputs of a batch by encoder outputs if no adapter acts inside the encoder."""
        if not self.taps or batch.has_taps:
            return batch
        with self._masking(batch):
            return encoder_cache.read(self.espnet, self.taps, batch, for_loss=for_loss)

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Attach the adapters and keep padding from affecting results; restore the model on exit."""
        with ExitStack() as stack:
            if self.adapters is not None and not self.taps:
                stack.enter_context(attached(self.espnet, self.adapters, self.sites))
            stack.enter_context(ignoring_padding(self.espnet))
            stack.enter_context(leaving_no_trace(self.espnet))
            yield

    def _passes(self, batch: Batch) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Encode a batch once per group of rows; yield the rows, encoder output (B, U, D), lengths (B,)."""
        for rows, encoded, frames in self._encoded(self.read_taps(batch, for_loss=False)):
            yield rows, _last(encoded), frames

    def _encoded(self, batch: Batch) -> Iterator[tuple[list[int], Encoded, Tensor]]:
        """Encode a batch for each group of rows; yield the rows, what the encoder returns, and lengths (B,).

        If no group changes the encoder, it runs once for all.
        """
        groups = self._groups(batch)
        if len(groups) > 1 and self.adapters.mixes_tasks:
            differences = [self._differences(batch, rows) for rows in groups]
            with self._acting(batch, {}):
                encoded, frames = self._encode(batch)
            for rows, own in zip(groups, differences, strict=True):
                with changed(self.espnet, own):
                    yield rows, encoded, frames
            return
        for rows in groups:
            with self._acting(batch, self._differences(batch, rows)):
                yield rows, *self._encode(batch)

    def _groups(self, batch: Batch) -> list[list[int]]:
        """Group the rows whose tasks change weights of the base identically, so that they can share a pass.

        A pass of the encoder in recognition still runs the whole batch and discards the other rows, since the
        exact bits of a row depend on the batch size.
        """
        groups = [() if self.adapters is None else self.adapters.group(task) for task in batch.task_ids]
        return [[row for row, own in enumerate(groups) if own == group] for group in sorted(set(groups))]

    def _differences(self, batch: Batch, rows: Sequence[int]) -> dict[str, Tensor]:
        """Return the differences of the base weights for a group of rows.

        They must be read before tasks are set: a hypernetwork holds either these or the weights of the rows.
        """
        return {} if self.adapters is None else self.adapters.differences(batch.task_ids[rows[0]])

    @contextmanager
    def _acting(self, batch: Batch, differences: Mapping[str, Tensor]) -> Iterator[None]:
        """Set every row's task, the differences of the base weights, and the masks."""
        with ExitStack() as stack:
            if self.adapters is not None:
                stack.enter_context(self.adapters.for_tasks(batch.task_ids, batch.inputs.device))
                stack.enter_context(changed(self.espnet, differences))
            stack.enter_context(self._masking(batch))
            yield

    @contextmanager
    def _masking(self, batch: Batch) -> Iterator[None]:
        """Mask the features that enter the encoder, for the rows that the batch selects."""
        if self.spec is None or batch.mask_keys is None:
            yield
            return

        def mask(feats: Tensor, lengths: Tensor) -> Tensor:
            lengths = owsm.own_frames(self.espnet.prompting, lengths, batch.lengths)
            return augment(self.spec, feats, lengths * batch.is_masked, batch.mask_keys)

        with changing_features(self.espnet, mask):
            yield

    def _loss(self, batch: Batch) -> Tensor:
        """Return the loss of rows that share one pass."""
        rows = range(len(batch.utt_ids))
        with self._acting(batch, self._differences(batch, rows)):
            if batch.has_taps:
                return self._loss_of(batch, rows, *self._encode(batch))
            inputs = batch.inputs.clone()  # ESPnet modifies it in place
            prompting = self.espnet.prompting
            text, transcript = owsm.targets(prompting, batch.tokens, batch.token_lengths)
            texts = text if prompting is None else (*text, *transcript)
            loss, _, _ = self.espnet(inputs, batch.lengths, *texts)
        return loss.squeeze()  # ESPnet returns shape (1,) for DataParallel

    def _loss_of(self, batch: Batch, rows: Sequence[int], encoded: Encoded, frames: Tensor) -> Tensor:
        """Return the mean loss of some rows from what the encoder returned for the batch."""
        rows = list(rows)
        own = {
            "frames": frames[rows],
            "tokens": batch.tokens[rows],
            "token_lengths": batch.token_lengths[rows],
        }
        outputs = _take(encoded, rows, int(own["frames"].max()))
        loss = loss_from_encoded(self.espnet, _last(outputs), **own)
        if batch.has_taps:
            inner = None if batch.inner_ctc is None else batch.inner_ctc[rows]
        else:
            inner = inner_ctc_loss(self.espnet, outputs, **own)
        return loss if inner is None else loss + inner.mean()

    def _encode(self, batch: Batch) -> tuple[Encoded, Tensor]:
        if batch.has_taps:
            return encoder_cache.replay(self.adapters, self.taps, batch.inputs, batch.lengths), batch.lengths
        return self.espnet.encode(batch.inputs.clone(), batch.lengths)


def _last(encoded: Encoded) -> Tensor:
    """Return the output of the last block (B, U, D)."""
    return encoded[0] if isinstance(encoded, tuple) else encoded


def _take(encoded: Encoded, rows: list[int], num_frames: int) -> Encoded:
    """Return some rows of what an encoder returned, without frames beyond `num_frames`."""
    if isinstance(encoded, tuple):
        inner = [(block, x[rows, :num_frames]) for block, x in encoded[1]]
        return encoded[0][rows, :num_frames], inner
    return encoded[rows, :num_frames]
