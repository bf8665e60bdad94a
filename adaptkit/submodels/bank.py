"""The stack of adapters in whose tables Submodels lie, a slot for each."""

import numpy as np
import torch
from torch import Tensor, nn

from adaptkit.adapters import api
from adaptkit.adapters.api import AdapterStack
from adaptkit.adapters.per_task import owning_parts
from adaptkit.base.checkpoint import BaseModel
from adaptkit.submodels.files import Shared


def build(shared: Shared, base: BaseModel, num_slots: int) -> AdapterStack:
    """Build adapters with empty slots, and with the weights that all Submodels share."""
    one = api.build(shared.adapters, base.sites, ["one"], seed=None)
    one = one.to(next(base.model.parameters()).device)
    for part in owning_parts(one).values():
        for name, table in list(part.named_parameters(recurse=False)):
            setattr(part, name, nn.Parameter(_zeros(num_slots, table.detach()[0])))
    names = [f"slot {slot}" for slot in range(num_slots)]
    stack = AdapterStack(list(one), one.configs, names).eval().requires_grad_(False)
    weights = stack.state_dict()  # they are the stack's own, not copies
    for name, tensor in shared.weights.items():
        weights[name].copy_(tensor)
    return stack


def _zeros(num_slots: int, one: Tensor) -> Tensor:
    """Give zeros like `one` for each slot; on CPU memory is taken where something is written first.

    torch.zeros writes all of it, and numpy has it from calloc.
    """
    shape = (num_slots, *one.shape)
    return one.new_zeros(shape) if one.is_cuda else torch.from_numpy(np.zeros(shape, one.numpy().dtype))
