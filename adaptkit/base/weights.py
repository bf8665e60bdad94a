"""Change the weights of a base model temporarily, and undo side effects of a forward pass on its modules."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def changed(model: nn.Module, differences: Mapping[str, Tensor]) -> Iterator[None]:
    """Add a difference to each named parameter inside the block; gradients flow to the differences.

    The parameters are replaced and restored, never written to. A parameter shared by several modules is
    changed in all of them.
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
    """Replace a weight of a module, as torch.func.functional_call does."""
    owner._parameters[leaf] = weight
    if isinstance(owner, nn.RNNBase):  # it uses a separate list of weights, which functional_call ignores
        owner._flat_weights[owner._flat_weights_names.index(leaf)] = weight


@contextmanager
def leaving_no_trace(model: nn.Module) -> Iterator[None]:
    """Release attention weights and keep positional encodings precise inside the block.

    An attention module keeps its last weights (B, H, U, U) with their graph, which takes memory and prevents
    deep copies. A positional encoding adopts the dtype of its input, and stays rounded after a pass in
    bfloat16.
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
    """The table of a positional encoding before a forward pass."""

    table: Tensor | None = None

    def remember(self, encoding: nn.Module, args: tuple[Any, ...]) -> None:
        """Store the table before it is used."""
        self.table = encoding.pe

    def restore(self, encoding: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Restore the table if it was rounded."""
        if encoding.pe.dtype != self.table.dtype:
            encoding.pe = self.table.to(encoding.pe.device)
        self.table = None
