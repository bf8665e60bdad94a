"""Let a base model compute with other weights for a while, and leave nothing of a pass in its modules."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def changed(model: nn.Module, differences: Mapping[str, Tensor]) -> Iterator[None]:
    """Add a difference to each named parameter until the block ends; gradients reach the differences.

    The parameters themselves are put back, never written to. One that several modules share is changed in
    all of them.
    """
    by_name = {name: model.get_parameter(name) for name in differences}
    sums = {id(parameter): parameter + differences[name] for name, parameter in by_name.items()}
    with ExitStack() as stack:
        for owner in model.modules() if sums else ():
            for leaf, parameter in list(owner._parameters.items()):
                if id(parameter) in sums:
                    stack.callback(_put, owner, leaf, parameter)
                    _put(owner, leaf, sums[id(parameter)])
        yield


def _put(owner: nn.Module, leaf: str, weight: Tensor) -> None:
    """Let a module compute with a weight, as torch.func.functional_call does."""
    owner._parameters[leaf] = weight
    if isinstance(owner, nn.RNNBase):  # it computes with a list of its own, which functional_call forgets
        owner._flat_weights[owner._flat_weights_names.index(leaf)] = weight


@contextmanager
def leaving_no_trace(model: nn.Module) -> Iterator[None]:
    """Let go of attention weights, and keep tables of positions precise, until the block ends.

    An attention keeps its last weights (B, H, U, U) with their graph: memory, and no deep copy. A table of
    positions takes over the precision of what it is added to, and stays rounded after a pass in bfloat16.
    """
    with ExitStack() as stack:
        for module in model.modules():
            if hasattr(module, "linear_q") and hasattr(module, "attn"):
                stack.callback(module.register_forward_hook(_forget_weights).remove)
            if isinstance(getattr(module, "pe", None), Tensor):
                positions = _Positions()
                stack.callback(module.register_forward_pre_hook(positions.remember).remove)
                stack.callback(module.register_forward_hook(positions.restore).remove)
        yield


def _forget_weights(attention: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
    attention.attn = None


class _Positions:
    """The table of a positional encoding as it was before a forward pass."""

    table: Tensor | None = None

    def remember(self, encoding: nn.Module, args: tuple[Any, ...]) -> None:
        """Keep the table while it is used."""
        self.table = encoding.pe

    def restore(self, encoding: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Put the table back if it was rounded."""
        if encoding.pe.dtype != self.table.dtype:
            encoding.pe = self.table.to(encoding.pe.device)
        self.table = None
