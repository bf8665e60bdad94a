"""Let a base model compute with other weights for a while."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

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
