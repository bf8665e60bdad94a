"""The embedding of an utterance, to identify its speaker: statistics of a block of the base model."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn import functional

from adaptkit.adapters.site import Site
from adaptkit.base import owsm
from adaptkit.data.batches import Batch
from adaptkit.data.dataset import BASE_TASK
from adaptkit.errors import ConfigError
from adaptkit.model import encoder_cache
from adaptkit.model.adapted import AdaptedModel

FIRST_BLOCK = 0  # later blocks distinguish words, not speakers: see `submodels.embeddings`


def embed(adapted: AdaptedModel, batch: Batch, block: int = FIRST_BLOCK) -> Tensor:
    """Return the embedding (2 D,) of the one utterance in a batch; the model must be in `hooked()`.

    It is the mean and the standard deviation over time (statistics pooling; Snyder et al., X-vectors: robust
    DNN embeddings for speaker recognition, 2018) of the normalised outputs of a block of the base model, with
    any adapters switched off. As utterances are embedded alone, results are bit-identical in any data set.
    """
    site = find_block(adapted, block)
    device = batch.inputs.device
    with _as_base(adapted, batch):
        taps = encoder_cache.read(adapted.espnet, (site,), batch, for_loss=False)
    x = taps.inputs[0]  # (U, D); for contextual-block encoders, the frames of all time blocks
    num_own = owsm.own_frames(adapted.espnet.prompting, torch.tensor(len(x), device=device), batch.lengths[0])
    x = functional.layer_norm(x[: int(num_own)].float(), x.shape[-1:])
    return torch.cat([x.mean(dim=0), x.std(dim=0, correction=0)]).cpu()


def find_block(adapted: AdaptedModel, block: int) -> Site:
    """Return the site of a block's output; a block out of range is a ConfigError."""
    blocks = {site.block: site for site in adapted.sites if site.kind == "block"}
    if block not in blocks:
        raise ConfigError(f"block {block}: not among this base model's blocks, 0 to {max(blocks)}")
    return blocks[block]


def _as_base(adapted: AdaptedModel, batch: Batch) -> AbstractContextManager[None]:
    """Switch the adapters off for a pass."""
    tasks = [BASE_TASK] * len(batch.utt_ids)
    return (
        nullcontext() if adapted.adapters is None else adapted.adapters.for_tasks(tasks, batch.inputs.device)
    )
