"""Score the next tokens of Transformers with keys and values computed once.

For every new token of a hypothesis, ESPnet's decoder recomputes the keys and values of the encoder output
and, like its language model, those of all earlier tokens. Here, the former are computed once per utterance
and the latter once per hypothesis. Scores are equal to within float tolerance.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adaptkit.base.classes import import_class

BatchScorerInterface = import_class("espnet.nets.scorer_interface.BatchScorerInterface")

State = Tensor | None  # keys and values (layers, 2, H, L, D / H) of a hypothesis' tokens


def cached_decoder(decoder: nn.Module) -> Any:
    """Return a caching scorer for a Transformer decoder; any other decoder is returned unchanged."""
    layers = getattr(decoder, "decoders", ())
    is_known = type(decoder).__name__ == "TransformerDecoder" and all(
        type(layer).__name__ == "DecoderLayer" and layer.sequential_attn is None and _is_plain(layer.src_attn)
        for layer in layers
    )
    return _CachedDecoder(decoder) if is_known and all(map(_caches, layers)) else decoder


def cached_lm(lm: nn.Module) -> Any:
    """Return a caching scorer for a Transformer language model; any other is returned unchanged."""
    if type(lm).__name__ == "TransformerLM" and all(map(_caches, lm.encoder.encoders)):
        return _CachedLM(lm)
    return lm


def _caches(layer: nn.Module) -> bool:
    return _is_plain(layer.self_attn) and not layer.concat_after


def _is_plain(attention: nn.Module) -> bool:
    return type(attention).__name__ == "MultiHeadedAttention"


class _CachedDecoder(BatchScorerInterface):
    """The log probabilities of `TransformerDecoder.forward_one_step`, with caches."""

    def __init__(self, decoder: nn.Module):
        self._decoder, self._memory = decoder, []

    def batch_init_state(self, x: Tensor) -> State:
        """Compute keys and values (1, H, U, D / H) of an utterance's encoder output (U, D)."""
        attentions = [layer.src_attn for layer in self._decoder.decoders]
        self._memory = [_project(attention, x[None]) for attention in attentions]
        return None

    def batch_score(self, ys: Tensor, states: Sequence[State], xs: Tensor) -> tuple[Tensor, list[State]]:
        """Score the tokens that follow prefixes (N, L)."""
        if states[0] is None and ys.shape[1] > 1:  # the tokens of a prompt
            _, states = self.batch_score(ys[:, :-1], states, xs)
        decoder, before = self._decoder, _stack(states)
        x, new = decoder.embed(ys)[:, -1:], []  # (N, 1, D)
        for index, (layer, memory) in enumerate(zip(decoder.decoders, self._memory, strict=True)):
            x, own = _attend_to_tokens(layer, x, None if before is None else before[:, index], None)
            new.append(own)
            x = _around(layer, layer.norm2, x, lambda h, m=memory, a=layer.src_attn: _attend(a, h, *m))
            x = _around(layer, layer.norm3, x, layer.feed_forward)
        x = decoder.after_norm(x[:, -1]) if decoder.normalize_before else x[:, -1]
        if decoder.output_layer is not None:
            x = torch.log_softmax(decoder.output_layer(x), dim=-1)
        return x, list(torch.stack(new, dim=1))


class _CachedLM(BatchScorerInterface):
    """The log probabilities of `TransformerLM.batch_score`, with caches."""

    def __init__(self, lm: nn.Module):
        self._lm = lm

    def batch_score(self, ys: Tensor, states: Sequence[State], xs: Tensor) -> tuple[Tensor, list[State]]:
        """Score the tokens that follow prefixes (N, L); as in training, blanks among them are masked."""
        if states[0] is None and ys.shape[1] > 1:
            _, states = self.batch_score(ys[:, :-1], states, xs)
        encoder, before = self._lm.encoder, _stack(states)
        x, new = encoder.embed(self._lm.embed(ys))[:, -1:], []  # (N, 1, D)
        is_seen = (ys != 0)[:, None, None]  # (N, 1, 1, L)
        for index, layer in enumerate(encoder.encoders):
            x, own = _attend_to_tokens(layer, x, None if before is None else before[:, index], is_seen)
            new.append(own)
            x = _around(layer, layer.norm2, x, layer.feed_forward)
        x = encoder.after_norm(x) if encoder.normalize_before else x
        return self._lm.decoder(x[:, -1]).log_softmax(dim=-1), list(torch.stack(new, dim=1))


def _stack(states: Sequence[State]) -> State:
    """Return the states of N hypotheses as one (N, layers, 2, H, L, D / H); None at their start."""
    return None if states[0] is None else torch.stack(list(states))


def _around(layer: nn.Module, norm: nn.Module, x: Tensor, module: Any) -> Tensor:
    """Return x + module(norm(x)), or norm(x + module(x)) where normalisation comes after."""
    if layer.normalize_before:
        return x + module(norm(x))
    return norm(x + module(x))


def _attend_to_tokens(
    layer: nn.Module, x: Tensor, before: State, is_seen: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Attend from the newest token (N, 1, D) to all; also return keys and values (N, 2, H, L, D / H)."""
    attention, seen = layer.self_attn, []

    def attend(h: Tensor) -> Tensor:
        newest = torch.stack(_project(attention, h), dim=1)
        seen.append(newest if before is None else torch.cat([before, newest], dim=-2))
        return _attend(attention, h, seen[0][:, 0], seen[0][:, 1], is_seen)

    return _around(layer, layer.norm1, x, attend), seen[0]


def _project(attention: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the keys and values (N, H, L, D / H) of x (N, L, D)."""
    keys, values = _split(attention, attention.linear_k(x)), _split(attention, attention.linear_v(x))
    return (attention.k_norm(keys) if hasattr(attention, "k_norm") else keys), values


def _attend(
    attention: nn.Module, x: Tensor, keys: Tensor, values: Tensor, is_seen: Tensor | None = None
) -> Tensor:
    """Attend from one position (N, 1, D) to keys and values (N, H, L, D / H), or (1, H, U, D / H) for all."""
    query = _split(attention, attention.linear_q(x))  # (N, H, 1, D / H)
    query = attention.q_norm(query) if hasattr(attention, "q_norm") else query
    if len(keys) == 1:  # treat the hypotheses as positions of one query
        query = query.transpose(0, 2)  # (1, H, N, D / H)
    scores = query @ keys.transpose(-2, -1) / math.sqrt(attention.d_k)
    if is_seen is not None:
        scores = scores.masked_fill(~is_seen, torch.finfo(scores.dtype).min)
    found = torch.softmax(scores, dim=-1) @ values
    if len(keys) == 1:
        found = found.transpose(0, 2)
    return attention.linear_out(found.transpose(1, 2).reshape(len(x), 1, -1))


def _split(attention: nn.Module, x: Tensor) -> Tensor:
    """Split the width of (N, L, D) over the heads: (N, H, L, D / H)."""
    return x.view(*x.shape[:2], attention.h, attention.d_k).transpose(1, 2)
