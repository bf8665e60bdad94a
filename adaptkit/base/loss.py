"""The loss of an ESPnet model from what leaves its encoder, for when the encoder has run before."""

from torch import Tensor, nn

from adaptkit.errors import CheckpointError


def loss_from_encoded(
    model: nn.Module, encoded: Tensor, *, frames: Tensor, tokens: Tensor, token_lengths: Tensor
) -> Tensor:
    """Give the CTC, attention or hybrid loss, a scalar, of x (B, U, D) with frames (B,) and tokens (B, L).

    It is what `ESPnetASRModel.forward` makes of them, less the terms of intermediate CTC: those belong to
    outputs of blocks, which do not change where the encoder does not, so the gradients are the same [ours].
    """
    if model.use_transducer_decoder or model.use_linear_decoder:
        raise CheckpointError(
            "the base model has a transducer or a linear decoder, and training beside the encoder knows CTC "
            "and attention decoders; adapt a base model with those"
        )
    tokens = tokens[:, : int(token_lengths.max())].masked_fill(tokens == -1, model.ignore_id)
    weight, loss = model.ctc_weight, encoded.new_zeros(())
    if weight != 0.0:
        ctc, _ = model._calc_ctc_loss(encoded, frames, tokens, token_lengths)
        loss = loss + weight * (1 - model.interctc_weight if has_inner_ctc(model) else 1.0) * ctc
    if weight != 1.0:  # it counts the start in token_lengths in place where there is a language token
        attention = model._calc_att_loss(encoded, frames, tokens, token_lengths.clone())[0]
        loss = loss + (1 - weight) * attention
    return loss


def has_inner_ctc(model: nn.Module) -> bool:
    """Tell whether the CTC is used within the encoder, for losses of its own or to condition blocks."""
    return bool(getattr(model.encoder, "interctc_layer_idx", ()))  # encoders without it lack the attribute
