"""Find where adapters can act in an encoder, and attach them there with forward hooks.

Modules are recognised by their attributes, not their classes, since ESPnet moves and renames them: a block is
a member of `encoder.encoders` with an attention and a feed-forward.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from adaptkit.adapters.api import AdapterStack, Site
from adaptkit.errors import CheckpointError

# attribute of an attention: kind of site (espnet.nets.pytorch_backend.transformer.attention)
_PROJECTIONS = {"linear_q": "query", "linear_k": "key", "linear_v": "value", "linear_out": "out"}


def find_sites(encoder: nn.Module, width: int) -> tuple[Site, ...]:
    """List the sites of an ESPnet encoder of width D in the order of the forward pass."""
    blocks = getattr(encoder, "encoders", None)
    if blocks is None or not all(_attention(block) for block in blocks):
        raise CheckpointError(
            f"the encoder {type(encoder).__name__} has no list `encoders` of blocks with attention; "
            "adaptkit adapts ESPnet's Conformer, Transformer and E-Branchformer encoders"
        )
    sites = [site for index, block in enumerate(blocks) for site in _block_sites(index, block, width)]
    return (*sites, Site("encoder", "encoder_out", -1, width, width))


def _block_sites(index: int, block: nn.Module, width: int) -> Iterator[Site]:
    path, attention = f"encoder.encoders.{index}", _attention(block)
    if getattr(block, "feed_forward_macaron", None) is not None:
        yield Site(f"{path}.feed_forward_macaron", "ffn_macaron", index, width, width)
    for projection, kind in _PROJECTIONS.items():
        linear = getattr(getattr(block, attention), projection)
        yield Site(f"{path}.{attention}.{projection}", kind, index, linear.in_features, linear.out_features)
    if getattr(block, "feed_forward", None) is not None:
        yield Site(f"{path}.feed_forward", "ffn", index, width, width)
    yield Site(path, "block", index, width, width)


def _attention(block: nn.Module) -> str | None:
    """Name the attribute that holds a block's attention: `self_attn`, or `attn` in an E-Branchformer."""
    found = [name for name in ("self_attn", "attn") if hasattr(getattr(block, name, None), "linear_q")]
    return found[0] if found else None


@contextmanager
def attached(model: nn.Module, adapters: AdapterStack, sites: tuple[Site, ...]) -> Iterator[None]:
    """Let adapters act in a model's forward passes until the block ends; leaving it restores the model.

    The hooks are callable objects, not closures: a deep copy of a hooked model would otherwise still call the
    adapter of the original.
    """
    wanted = frozenset().union(*(member.wants for member in adapters))
    with ExitStack() as stack:
        encoder = model.get_submodule("encoder")
        stack.callback(encoder.register_forward_pre_hook(_Begin(adapters)).remove)
        for site in sites:
            if site.kind in wanted:
                hook = _Adapt(adapters, site)
                stack.callback(model.get_submodule(site.name).register_forward_hook(hook).remove)
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


@dataclass(frozen=True)
class _Adapt:
    """A block takes and gives `(x, pos_emb), mask` or `x, mask`; any other site x itself.

    The encoder gives `x, lengths, None`, with intermediate CTC `(x, more), lengths, None`; it has no x_in.
    Its last norm would not do: intermediate CTC calls that too.
    """

    adapters: AdapterStack
    site: Site

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        x_out = _features(output)
        x_in = x_out if self.site.kind == "encoder_out" else _features(args)
        return _with_features(output, self.adapters.adapt(self.site, x_in, x_out))


def _features(nested: Tensor | tuple[Any, ...]) -> Tensor:
    """Find x (B, U, D), the first tensor of nested tuples."""
    while not isinstance(nested, Tensor):
        nested = nested[0]
    return nested


def _with_features(nested: Tensor | tuple[Any, ...], x: Tensor) -> Any:
    """Put x (B, U, D) where `_features` found it."""
    if isinstance(nested, Tensor):
        return x
    return (_with_features(nested[0], x), *nested[1:])
