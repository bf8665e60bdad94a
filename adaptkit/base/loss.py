"""Compute the loss of an ESPnet model from encoder outputs that are already known."""

import torch
from torch import Tensor, nn

from adaptkit.base.owsm import targets
from adaptkit.errors import CheckpointError


def loss_from_encoded(
    model: nn.Module,
    encoded: Tensor,
    *,
    frames: Tensor,
    tokens: Tensor,
    token_lengths: Tensor,
) -> Tensor:
    """Return the loss of encoder outputs (B, U, D), frames (B,) and tokens (B, L), a scalar.

    It is the loss of the model's `forward` with CTC, an attention decoder, both or a transducer, but without
    the terms of intermediate CTC (see `inner_ctc_loss`): they depend on the outputs of blocks, which are
    constant if the encoder is. An OWSM model is prompted. A linear decoder, which classifies whole
    utterances, is refused.
    """
    if model.use_linear_decoder:
        raise CheckpointError(
            "the base model has a linear decoder, which classifies whole utterances and recognises no words; "
            "use a base model with CTC, an attention decoder or a transducer"
        )
    tokens = tokens[:, : int(token_lengths.max())]
    tokens = tokens.masked_fill(tokens == -1, model.ignore_id)
    text, transcript = targets(model.prompting, tokens, token_lengths)
    weight, loss = model.ctc_weight, encoded.new_zeros(())
    if weight != 0.0:
        ctc, _ = model._calc_ctc_loss(encoded, frames, *transcript)
        loss = loss + weight * (1 - model.interctc_weight if has_inner_ctc(model) else 1.0) * ctc
    if model.use_transducer_decoder:
        return loss + model._calc_transducer_loss(encoded, frames, tokens)[0]
    if weight != 1.0:
        attention = model._calc_att_loss(encoded, frames, *text)[0]
        loss = loss + (1 - weight) * attention
    return loss


def inner_ctc_loss(
    model: nn.Module, encoded: tuple | Tensor, *, frames: Tensor, tokens: Tensor, token_lengths: Tensor
) -> Tensor | None:
    """Return the weighted term of intermediate CTC in the loss of each row (B,); None if there is none.

    `encoded` is what the model's `encode` returns, with the outputs (B, U, D) of blocks.
    """
    if not adds_inner_ctc(model):
        return None
    tokens = tokens.masked_fill(tokens == -1, model.ignore_id)
    rows = []
    for row in range(len(frames)):
        own, lengths = slice(row, row + 1), token_lengths[row : row + 1]
        text = tokens[own, : int(lengths.max())]
        losses = [
            model.ctc(inner[own, : int(frames[row])], frames[own], text, lengths) for _, inner in encoded[1]
        ]
        rows.append(model.ctc_weight * model.interctc_weight * sum(losses) / len(losses))
    return torch.stack(rows).reshape(-1)


def adds_inner_ctc(model: nn.Module) -> bool:
    """Whether intermediate CTC is part of the loss."""
    return has_inner_ctc(model) and model.ctc_weight * model.interctc_weight != 0


def has_inner_ctc(model: nn.Module) -> bool:
    """Whether CTC is used within the encoder, for intermediate losses or to condition blocks."""
    return bool(getattr(model.encoder, "interctc_layer_idx", ()))  # not every encoder has this attribute
