"""Find the sites where adapters can act in an encoder, and attach adapters with forward hooks.

Modules are recognised by their attributes, not their classes, since ESPnet moves and renames them: a
block is a member of `encoder.encoders` with an attention and a feed-forward or, in a Branchformer, a
convolutional gating MLP.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from adaptkit.adapters.api import AdapterStack
from adaptkit.adapters.site import Site
from adaptkit.errors import CheckpointError, ConfigError, counted

# attribute of an attention: kind of site (espnet.nets.pytorch_backend.transformer.attention)
_PROJECTIONS = {"linear_q": "query", "linear_k": "key", "linear_v": "value", "linear_out": "out"}
# linear map of a feed-forward: end of the kind of site (espnet...transformer.positionwise_feed_forward, and
# espnet2.asr.layers.cgmlp)
_HALVES = {"w_1": "in", "w_2": "out", "channel_proj1.0": "in", "channel_proj2": "out"}
# feed-forward: kind of site, and the norms before it in a Conformer or E-Branchformer and in a Transformer
_FEED_FORWARDS = {
    "feed_forward_macaron": ("ffn_macaron", ("norm_ff_macaron",)),
    "feed_forward": ("ffn", ("norm_ff", "norm2")),
    "cgmlp": ("ffn", ("norm_mlp",)),  # where a block has no feed-forward
}
# class of a module whose last step adds its bias to an output (B, ...): axis of the channels
_CHANNEL_AXES = {
    "Linear": -1,
    "LayerNorm": -1,  # ESPnet's may have another, `dim`
    "Conv1d": 1,
    "Conv2d": 1,
    "BatchNorm1d": 1,
    "BatchNorm2d": 1,
}
_AFTER_ENCODER = ("ctc", "decoder", "joint_network")  # parts of a model that only read the encoder's output


def find_sites(model: nn.Module) -> tuple[Site, ...]:
    """List the sites of an ESPnet model in the order of the forward pass, then its weights by name."""
    encoder = model.encoder
    width = encoder.output_size()
    blocks = getattr(encoder, "encoders", None)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList) or not all(map(_attention, blocks)):
        raise CheckpointError(
            f"the encoder {type(encoder).__name__} has no list `encoders` of blocks with attention, where "
            "adapters act; docs/models.md lists the encoders that have one"
        )
    sites = [site for index, block in enumerate(blocks) for site in _block_sites(index, block, width)]
    out = Site("encoder", "encoder_out", -1, width, width)
    return (*sites, out, *_bias_sites(encoder), *_weight_sites(model))


def _block_sites(index: int, block: nn.Module, width: int) -> Iterator[Site]:
    path, attention = f"encoder.encoders.{index}", _attention(block)
    yield from _feed_forward_sites(index, block, "feed_forward_macaron", width)
    for projection, kind in _PROJECTIONS.items():
        linear = getattr(getattr(block, attention), projection)
        yield Site(f"{path}.{attention}.{projection}", kind, index, linear.in_features, linear.out_features)
    has_feed_forward = getattr(block, "feed_forward", None) is not None
    yield from _feed_forward_sites(index, block, "feed_forward" if has_feed_forward else "cgmlp", width)
    yield Site(path, "block", index, width, width)


def _feed_forward_sites(index: int, block: nn.Module, attribute: str, width: int) -> Iterator[Site]:
    """Yield a feed-forward's linear maps (convolutions are skipped), then the feed-forward itself, twice."""
    feed_forward = getattr(block, attribute, None)
    if feed_forward is None:
        return
    kind, norms = _FEED_FORWARDS[attribute]
    path = f"encoder.encoders.{index}"
    modules = dict(feed_forward.named_modules())
    for half, end in _HALVES.items():
        linear = modules.get(half)
        if isinstance(linear, nn.Linear):
            name = f"{path}.{attribute}.{half}"
            yield Site(name, f"{kind}_{end}", index, linear.in_features, linear.out_features)
    norm = next(name for name in norms if hasattr(block, name))
    is_post_norm = getattr(block, "normalize_before", True) is False  # the norm follows, the input is raw
    yield Site(f"{path}.{attribute}", kind, index, width, width)
    raw_input = f"{path}.{attribute if is_post_norm else norm}"
    yield Site(f"{path}.{attribute}", f"{kind}_raw", index, width, width, input_of=raw_input)


def _bias_sites(encoder: nn.Module) -> Iterator[Site]:
    owners = Counter(
        id(weight) for module in encoder.modules() for weight in module.parameters(recurse=False)
    )
    for name, module in encoder.named_modules():
        parent, _, index = name.partition(".")
        axis = _CHANNEL_AXES.get(type(module).__name__)
        bias = getattr(module, "bias", None)
        if axis is not None and bias is not None and bias.dim() == owners[id(bias)] == 1:
            block = int(index.partition(".")[0]) if parent == "encoders" else -1
            axis = getattr(module, "dim", axis)
            yield Site(f"encoder.{name}", "bias", block, len(bias), len(bias), axis=axis)


def _weight_sites(model: nn.Module) -> Iterator[Site]:
    after = [part for part in _AFTER_ENCODER if part != "ctc" or not _uses_ctc(model)]
    for name, parameter in model.named_parameters():
        shape, part = tuple(parameter.shape), name.partition(".")[0]
        dim_in, dim_out = (shape[-1], shape[0]) if shape else (1, 1)
        yield Site(name, "weight", -1, dim_in, dim_out, shape=shape, in_encoder=part not in after)


def _uses_ctc(model: nn.Module) -> bool:
    """Whether CTC acts within the encoder: its posteriors condition blocks, as in every OWSM-CTC model."""
    prompting = getattr(model, "prompting", None)
    is_conditioned = getattr(model.encoder, "interctc_use_conditioning", False)
    return is_conditioned or (prompting is not None and not prompting.has_decoder)


def _attention(block: nn.Module) -> str | None:
    """Return the attribute with a block's attention: `self_attn`, or `attn` in an E-Branchformer."""
    found = [name for name in ("self_attn", "attn") if hasattr(getattr(block, name, None), "linear_q")]
    return found[0] if found else None


def stop_recomputing(model: nn.Module) -> None:
    """Disable a model's activation checkpointing, which does not change its output.

    Checkpointing would repeat blocks in the backward pass, when no speaker is set.
    """
    for module in model.modules():
        if getattr(module, "gradient_checkpoint_layers", None):  # in an E-Branchformer or a decoder
            module.gradient_checkpoint_layers = []


def drops_layers(model: nn.Module) -> bool:
    """Whether a model leaves out some of its layers at random in training, which then get no gradient."""
    rates = ("layer_drop_rate", "stochastic_depth_rate")
    return any(getattr(module, rate, 0) for module in model.modules() for rate in rates)


def refuse_taps(encoder: nn.Module, adapters: AdapterStack) -> None:
    """Refuse adapters that read outputs of blocks whose length differs from that of the encoder's output."""
    if adapters.taps and getattr(encoder, "block_size", 0):
        raise ConfigError(
            f"adapters: {adapters.kind} reads the outputs of blocks, which {type(encoder).__name__} cuts "
            "into overlapping blocks of time; use an adapter within the blocks, such as 'residual'"
        )


@contextmanager
def attached(model: nn.Module, adapters: AdapterStack, sites: tuple[Site, ...]) -> Iterator[None]:
    """Apply adapters in a model's forward passes inside the block, and restore the model afterwards.

    The hooks are callable objects rather than closures: a deep copy of a hooked model would otherwise still
    call the adapters of the original.
    """
    wanted = frozenset().union(*(member.wants for member in adapters))
    with ExitStack() as stack:
        encoder = model.get_submodule("encoder")
        for module in encoder.modules():
            if getattr(module, "use_flash_attn", False):  # it joins the rows of a batch, whose tasks differ
                stack.callback(setattr, module, "use_flash_attn", True)
                module.use_flash_attn = False
        stack.callback(encoder.register_forward_pre_hook(_Begin(adapters)).remove)
        for site in sites:
            if site.kind in wanted - {"weight"}:
                hook = _Adapt(adapters, site)
                stack.callback(model.get_submodule(site.name).register_forward_hook(hook).remove)
                if site.input_of:
                    source = model.get_submodule(site.input_of)
                    stack.callback(source.register_forward_pre_hook(hook.remember).remove)
        stack.callback(encoder.register_forward_hook(_End(adapters), always_call=True).remove)
        yield


@dataclass(frozen=True)
class _Begin:
    adapters: AdapterStack

    def __call__(self, encoder: nn.Module, args: tuple[Any, ...]) -> None:
        for member in self.adapters:
            member.begin()


@dataclass(frozen=True)
class _End:
    adapters: AdapterStack

    def __call__(self, encoder: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        for member in self.adapters:
            member.end()


@dataclass
class _Adapt:
    """Replace the output of a site with that of the adapters.

    A block takes and returns `(x, pos_emb), mask` or `x, mask`; any other site takes and returns x. At a bias
    x_in is x_out, and a convolution's x (B, D, U) or (B, D, U, F) is seen as (B, U, D) or (B, U F, D). A
    contextual-block encoder folds blocks of time frames into the rows, (B N, U, D) or (B, N, U, D): adapters,
    which act frame by frame, see the frames of each row in sequence, (B, N U, D).

    The encoder returns `x, lengths, None`, with intermediate CTC `(x, more), lengths, None`; it has no x_in.
    Its last norm cannot be hooked instead, as intermediate CTC calls it too.
    """

    adapters: AdapterStack
    site: Site
    raw: Tensor | None = None  # the input of `site.input_of`, until the site is reached

    def remember(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Store the input of a module that runs before the site."""
        self.raw = _features(args)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        x_out = _features(output)
        if self.site.kind == "bias":
            return self._adapt_channels(x_out)
        x_in = x_out if self.site.kind == "encoder_out" else _features(args)
        if self.site.input_of:
            x_in, self.raw = self.raw, None
        frames = output[1] if self.site.kind == "encoder_out" else None
        rows = self.adapters.num_rows
        if x_out.dim() == 3 and rows in (None, len(x_out)):
            return _with_features(output, self.adapters.adapt(self.site, x_in, x_out, frames))
        unfolded = (x.reshape(rows, -1, x.shape[-1]) for x in (x_in, x_out))
        adapted = self.adapters.adapt(self.site, *unfolded).view(x_out.shape)
        return _with_contexts(module, _with_features(output, adapted))

    def _adapt_channels(self, x_out: Tensor) -> Tensor:
        """Adapt an output (B, ...) whose channels lie along any axis."""
        rows = self.adapters.num_rows or len(x_out)
        if len(x_out) % rows:
            sizes = f"{counted(len(x_out), 'output')} for a batch of {counted(rows, 'utterance')}"
            raise ConfigError(
                f"adapters: {self.site.name} of this base model has {sizes}, so they cannot differ by "
                f"speaker; use another adapter type than {self.adapters.kind}, or set 'parts' without the "
                "encoder"
            )
        moved = x_out.movedim(self.site.axis, -1)
        flat = moved.reshape(rows, -1, moved.shape[-1])
        adapted = self.adapters.adapt(self.site, flat, flat).view_as(moved).movedim(-1, self.site.axis)
        # laid out in memory as before: the bits of the next module depend on it
        return adapted.contiguous() if x_out.is_contiguous() else adapted


def _with_contexts(block: nn.Module, output: Any) -> Any:
    """Pass the adapted last frame of each block of time frames to the next, as a contextual block does.

    Such a block returns `x, mask, is_streaming, contexts, contexts, is_short, layer` with x (B, N, U, D) and
    contexts (B, N, layers, D).
    """
    num_layers = getattr(block, "total_layer_num", None)
    if num_layers is None or output[3] is None or output[2] or output[6] >= num_layers:
        return output
    x, mask, is_streaming, contexts, _, is_short, layer = output
    contexts = contexts.clone()
    contexts[:, 0, layer], contexts[:, 1:, layer] = x[:, 0, -1], x[:, :-1, -1]
    return x, mask, is_streaming, contexts, contexts, is_short, layer


def _features(nested: Tensor | tuple[Any, ...]) -> Tensor:
    """Return x (B, U, D), the first tensor in nested tuples."""
    while not isinstance(nested, Tensor):
        nested = nested[0]
    return nested


def _with_features(nested: Tensor | tuple[Any, ...], x: Tensor) -> Any:
    """Put x (B, U, D) where `_features` found it."""
    if isinstance(nested, Tensor):
        return x
    return (_with_features(nested[0], x), *nested[1:])
