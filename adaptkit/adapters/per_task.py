"""Weights with a leading task axis, chosen per row by task ids (after google/praxis' multitask adapters)."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn


class TaskOwned(nn.Module):
    """What holds parameters that tasks own: index k of their first axis belongs to task k alone."""


class TaskLinear(TaskOwned):
    """y_b = W[k_b]^T x_b + c[k_b]: every row b of a batch goes through the affine map of its own task k_b.

    `weight` is (K, D_in, D_out) and `bias` (K, D_out). Each task's weight is drawn Xavier-uniform from its
    own fan-in and fan-out, or is zero; biases are zero. Numbers: K (D_in D_out + D_out), without bias
    K D_in D_out.
    """

    def __init__(
        self, num_tasks: int, dim_in: int, dim_out: int, *, zero: bool = False, has_bias: bool = True
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_tasks, dim_in, dim_out))
        self.bias = nn.Parameter(torch.zeros(num_tasks, dim_out)) if has_bias else None
        if not zero:
            for task_weight in self.weight.data:  # slice by slice: over the whole table the fans would hold K
                nn.init.xavier_uniform_(task_weight)

    def forward(self, x: Tensor, task_ids: Tensor) -> Tensor:
        """Map x (B, U, D_in) with task_ids (B,) to (B, U, D_out), in the dtype of x."""
        weight, bias = self.of_rows(task_ids, x.dtype)
        return torch.bmm(x, weight) if bias is None else torch.baddbmm(bias, x, weight)

    def of_rows(self, task_ids: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Give the weight (B, D_in, D_out) and the bias (B, 1, D_out), if any, of each row's task."""
        weight = self.weight.index_select(0, task_ids).to(dtype)
        if self.bias is None:
            return weight, None
        return weight, self.bias.index_select(0, task_ids)[:, None].to(dtype)


class TaskDifferences(TaskOwned):
    """What each task adds to parameters of the base: zeros (K, *shape) at birth, one table for each name.

    Numbers: K times those of the parameters. Names may not hold dots (`Site.key` has none).
    """

    def __init__(self, num_tasks: int, shapes: Mapping[str, Sequence[int]]):
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(num_tasks, *shape)))

    def of(self, task: int) -> dict[str, Tensor]:
        """Give a task's own slice of every table."""
        return {name: table[task] for name, table in self.named_parameters()}


def task_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Name the parameters that tasks own."""
    for prefix, part in module.named_modules():
        if isinstance(part, TaskOwned):
            yield from part.named_parameters(prefix)


def numbers_per_task(module: nn.Module) -> int:
    """Count what each task owns, which is what one more would add."""
    return sum(parameter[0].numel() for _, parameter in task_parameters(module))
