"""Let a base model compute with other weights for a while."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn


@contextmanager
def changed(model: nn.Module, differences: Mapping[str, Tensor]) -> Iterator[None]:
    """Add a difference to each named parameter until the block ends; gradients reach the differences.

    The parameters themselves are put back, never written to.
    """
    with ExitStack() as stack:
        for name, difference in differences.items():
            path, _, leaf = name.rpartition(".")
            owner = model.get_submodule(path)
            parameter = owner._parameters[leaf]
            stack.callback(owner._parameters.__setitem__, leaf, parameter)
            owner._parameters[leaf] = parameter + difference  # where torch.func.functional_call puts it
        yield
