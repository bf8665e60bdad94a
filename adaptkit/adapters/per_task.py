"""Weights that tasks own, chosen per row by task ids: from a table with a leading task axis or from a space.

The table is after google/praxis' multitask adapters. The space is ours, after the learned speaker embeddings
of Biadsy et al., A scalable model specialization framework for training and inference using Submodels and its
application to speech model personalization, 2022, arXiv:2203.12559.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class TaskOwned(nn.Module):
    """What holds parameters that tasks own: index k of their first axis belongs to task k alone."""

    made: Mapping[str, Tensor] | None = None  # by a space: the slice of every row (B, ...), during a pass

    def draw(self, task: int) -> None:
        """Draw a task's slices, zero so far, from torch's global generator; some start at zero."""

    def of_row_tasks(self, name: str, task_ids: Tensor) -> Tensor:
        """Give what a parameter holds for the task of each row (B, ...)."""
        if self.made is not None:
            return self.made[name]
        return self.get_parameter(name).index_select(0, task_ids)

    def of(self, task: int) -> dict[str, Tensor]:
        """Give a task's own slice of every parameter; with a space, that of the first row of the pass."""
        if self.made is not None:
            return {name: rows[0] for name, rows in self.made.items()}
        return {name: table[task] for name, table in self.named_parameters(recurse=False)}


class TaskLinear(TaskOwned):
    """y_b = W[k_b]^T x_b + c[k_b]: every row b of a batch goes through the affine map of its own task k_b.

    `weight` is (K, D_in, D_out) and `bias` (K, D_out). Each task's weight is drawn by `init`, Xavier-uniform
    from its own fan-in and fan-out if not given, or is zero; biases are zero. Numbers:
    K (D_in D_out + D_out), without bias K D_in D_out.
    """

    def __init__(
        self,
        num_tasks: int,
        dim_in: int,
        dim_out: int,
        *,
        zero: bool = False,
        has_bias: bool = True,
        init: Callable[[Tensor], object] = nn.init.xavier_uniform_,
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_tasks, dim_in, dim_out))
        self.bias = nn.Parameter(torch.zeros(num_tasks, dim_out)) if has_bias else None
        self.has_bias, self.init = has_bias, None if zero else init

    def draw(self, task: int) -> None:
        """Draw a task's weight; over the whole table the fans would hold K."""
        if self.init is not None:
            self.init(self.weight.data[task])

    def forward(self, x: Tensor, task_ids: Tensor) -> Tensor:
        """Map x (B, U, D_in) with task_ids (B,) to (B, U, D_out), in the dtype of x."""
        weight, bias = self.of_rows(task_ids, x.dtype)
        return torch.bmm(x, weight) if bias is None else torch.baddbmm(bias, x, weight)

    def of_rows(self, task_ids: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Give the weight (B, D_in, D_out) and the bias (B, 1, D_out), if any, of each row's task."""
        weight = self.of_row_tasks("weight", task_ids).to(dtype)
        if not self.has_bias:
            return weight, None
        return weight, self.of_row_tasks("bias", task_ids)[:, None].to(dtype)


class TaskDifferences(TaskOwned):
    """What each task adds to parameters of the base: zeros (K, *shape) at birth, one table for each name.

    Numbers: K times those of the parameters. Names may not hold dots (`Site.key` has none).
    """

    def __init__(self, num_tasks: int, shapes: Mapping[str, Sequence[int]]):
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(num_tasks, *shape)))


class Space(nn.Module):
    """theta_k = G e_k + g0: all P weights of task k, from E numbers of its own and a map that tasks share.

    It takes the place of the tables of a module's parts, built for one task, whose weights become g0. G is
    zero at birth, so an untrained adapter with a space changes nothing either; e_k is drawn from a normal
    distribution of variance 1 / E, so that its length is about 1. As with the two matrices of LoRA, G learns
    in the first step and e_k from the second on [ours]. Numbers: K E + E P + P.

    What is kept and trained is e_k / 32: AdamW moves every number by about its learning rate, whatever its
    scale, and a task takes few steps beside those that all tasks take in G. For 32 voices of egs/voices and
    E = 16 scales of 1, 8 and 32 gave 19.9, 18.2 and 16.8 % WER on the validation set [ours].
    """

    scale = 32.0  # of e_k over the numbers that are kept

    def __init__(self, module: nn.Module, num_tasks: int, dim: int):
        super().__init__()
        self.places = [(part, name, table[0].shape) for part, name, table in _tables(module)]
        origin = torch.cat([table.detach()[0].flatten() for _, _, table in _tables(module)])
        for part, name, _ in self.places:
            part.register_parameter(name, None)
        self.codes = _Codes(num_tasks, dim, std=dim**-0.5 / self.scale)
        self.basis = nn.Parameter(torch.zeros(dim, len(origin)))
        self.origin = nn.Parameter(origin)

    def make(self, task_ids: Tensor) -> None:
        """Make the weights of every row's task (B,) and hand them to the parts that use them."""
        with torch.autocast(task_ids.device.type, enabled=False):
            codes = self.scale * self.codes.of_row_tasks("table", task_ids)  # (B, E)
            rows = torch.addmm(self.origin, codes, self.basis)  # (B, P)
        slices = rows.split([math.prod(shape) for _, _, shape in self.places], dim=1)
        for (part, name, shape), own in zip(self.places, slices, strict=True):
            part.made = {**(part.made or {}), name: own.unflatten(1, shape)}

    def forget(self) -> None:
        """Let go of the rows' weights."""
        for part, _, _ in self.places:
            part.made = None

    @contextmanager
    def alone(self, task: int) -> Iterator[None]:
        """Make the weights of one task, for `TaskOwned.of` inside the block."""
        self.make(torch.tensor([task], device=self.origin.device))
        try:
            yield
        finally:
            self.forget()


class _Codes(TaskOwned):
    """The E numbers of each task, `table` (K, E), drawn with a standard deviation of `std`."""

    def __init__(self, num_tasks: int, dim: int, *, std: float):
        super().__init__()
        self.table, self.std = nn.Parameter(torch.zeros(num_tasks, dim)), std

    def draw(self, task: int) -> None:
        """Draw a task's numbers."""
        nn.init.normal_(self.table.data[task], std=self.std)


def owning_parts(module: nn.Module) -> dict[str, TaskOwned]:
    """Give the parts of a module that have parameters which tasks own, by their names."""
    parts = {name: part for name, part in module.named_modules() if isinstance(part, TaskOwned)}
    return {name: part for name, part in parts.items() if any(True for _ in part.parameters())}


def draw(parts: Sequence[TaskOwned], task: int, words: str) -> None:
    """Draw what a task owns in some parts, from words alone, which then have seeded torch's generator."""
    torch.manual_seed(int.from_bytes(hashlib.blake2b(words.encode(), digest_size=7).digest(), "big"))
    for part in parts:
        part.draw(task)


def task_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Name the parameters that tasks own."""
    for prefix, part in owning_parts(module).items():
        yield from part.named_parameters(prefix)


def shared_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Name the parameters that no task owns by itself."""
    owned = {name for name, _ in task_parameters(module)}
    yield from ((name, parameter) for name, parameter in module.named_parameters() if name not in owned)


def _tables(module: nn.Module) -> list[tuple[TaskOwned, str, nn.Parameter]]:
    return [
        (part, name, table)
        for part in owning_parts(module).values()
        for name, table in part.named_parameters(recurse=False)
    ]
