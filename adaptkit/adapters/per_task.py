"""Per-task weights, selected for each row by task ids: from a table with a task axis or by a hypernetwork.

The table follows google/praxis' multitask adapters. The hypernetwork is ours, after the learned speaker
embeddings of Biadsy et al., A scalable model specialization framework for training and inference using
Submodels and its application to speech model personalization, 2022, arXiv:2203.12559.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

SHARED = "shared"  # the task of the shared adapter, which also serves speakers without adapters


@dataclass(frozen=True)
class TakenSlices:
    """Copies of some tasks' slices of parameters, used in place of the tables while these tasks are trained.

    Their gradients have the size of these slices, whereas that of a table would have the size of all tasks.
    """

    task_ids: Tensor  # (n,) sorted; no other task may be used meanwhile
    slices: Mapping[str, Tensor]  # (n, ...) by the parameter's name

    def places(self, task_ids: Tensor) -> Tensor:
        """Return the place of each task among the slices."""
        return torch.searchsorted(self.task_ids, task_ids).clamp(max=len(self.task_ids) - 1)


class TaskOwned(nn.Module):
    """A module with per-task parameters: index k of their first axis belongs to task k alone."""

    made: Mapping[str, Tensor] | None = None  # slices of every row (B, ...), from a hypernetwork, in a pass
    taken: TakenSlices | None = None  # in a step of training

    def draw(self, task: int) -> None:
        """Initialise a task's slices, so far zero, from torch's global generator; some stay zero."""

    def of_row_tasks(self, name: str, task_ids: Tensor) -> Tensor:
        """Return the slice of a parameter for the task of each row (B, ...)."""
        if self.made is not None:
            return self.made[name]
        if self.taken is not None and name in self.taken.slices:
            return self.taken.slices[name].index_select(0, self.taken.places(task_ids))
        return self.get_parameter(name).index_select(0, task_ids)

    def of(self, task: int) -> dict[str, Tensor]:
        """Return a task's slice of every parameter; with a hypernetwork, that of the pass's first row."""
        if self.made is not None:
            return {name: rows[0] for name, rows in self.made.items()}
        found = {name: table[task] for name, table in self.named_parameters(recurse=False)}
        if self.taken is None:
            return found
        place = int(self.taken.places(self.taken.task_ids.new_tensor(task)))
        return found | {name: slices[place] for name, slices in self.taken.slices.items()}


class TaskLinear(TaskOwned):
    """y_b = W[k_b]^T x_b + c[k_b]: every row b of a batch goes through the affine map of its task k_b.

    `weight` is (K, D_in, D_out) and `bias` (K, D_out). Each task's weight is initialised by `init`, by
    default Xavier-uniform with its own fan-in and fan-out, or is zero; biases are zero. Parameters:
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
        """Initialise a task's weight; initialised as a whole, the table's fans would include K."""
        if self.init is not None:
            self.init(self.weight.data[task])

    def forward(self, x: Tensor, task_ids: Tensor) -> Tensor:
        """Map x (B, U, D_in) with task_ids (B,) to (B, U, D_out), in the dtype of x."""
        weight, bias = self.of_rows(task_ids, x.dtype)
        return torch.bmm(x, weight) if bias is None else torch.baddbmm(bias, x, weight)

    def of_rows(self, task_ids: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Return the weight (B, D_in, D_out) and the bias (B, 1, D_out), if any, of each row's task."""
        weight = self.of_row_tasks("weight", task_ids).to(dtype)
        if not self.has_bias:
            return weight, None
        return weight, self.of_row_tasks("bias", task_ids)[:, None].to(dtype)


class TaskScale(TaskOwned):
    """y_b = (1 + s[k_b]) * x_b + t[k_b]: every row b of a batch has the scale and shift of its task k_b.

    `scale` and `shift` are (K, D), initialised to zero. Parameters: K 2 D.
    """

    def __init__(self, num_tasks: int, dim: int):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(num_tasks, dim))
        self.shift = nn.Parameter(torch.zeros(num_tasks, dim))

    def forward(self, x: Tensor, task_ids: Tensor) -> Tensor:
        """Scale and shift x (B, U, D) with task_ids (B,), in the dtype of x."""
        scale, shift = (self.of_row_tasks(name, task_ids)[:, None].to(x.dtype) for name in ("scale", "shift"))
        return torch.addcmul(shift, x, 1 + scale)


class TaskBias(TaskOwned):
    """y_b = x_b + c[k_b]: every row b of a batch has the bias (K, D) of its task k_b. Parameters: K D."""

    def __init__(self, num_tasks: int, dim: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(num_tasks, dim))

    def forward(self, x: Tensor, task_ids: Tensor) -> Tensor:
        """Add the bias of each row's task to x (B, U, D) with task_ids (B,), in the dtype of x."""
        return x + self.of_row_tasks("bias", task_ids)[:, None].to(x.dtype)


class TaskDifferences(TaskOwned):
    """Each task's differences to the base model's parameters: tables (K, *shape) by name, initially zero.

    Parameters: K times those of the chosen parameters. Names may not contain dots (`Site.key` has none).
    """

    def __init__(self, num_tasks: int, shapes: Mapping[str, Sequence[int]]):
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(num_tasks, *shape)))


class Hypernetwork(nn.Module):
    """theta_k = G e_k + g0: all P weights of task k, from its E-dimensional embedding and a shared map.

    It replaces the tables in the parts of a module built for one task; their weights become g0. G is
    initialised to zero, so an untrained adapter with a hypernetwork changes nothing either; e_k is drawn from
    a normal distribution of variance 1 / E, so that its norm is about 1. As with the two matrices of LoRA,
    G learns from the first step and e_k from the second [ours]. Parameters: K E + E P + P.

    The embeddings are stored and trained as e_k / 32: AdamW changes every parameter by about the learning
    rate, whatever its scale, and a task takes few steps compared with G, which learns from all tasks. For 32
    voices of egs/voices and E = 16, scales of 1, 8 and 32 gave 19.9, 18.2 and 16.8 % WER on the validation
    set [ours].
    """

    scale = 32.0  # of e_k relative to the stored embedding

    def __init__(self, module: nn.Module, num_tasks: int, dim: int):
        super().__init__()
        self.places = [(part, name, table[0].shape) for part, name, table in _tables(module)]
        origin = torch.cat([table.detach()[0].flatten() for _, _, table in _tables(module)])
        for part, name, _ in self.places:
            part.register_parameter(name, None)
        self.codes = _Embeddings(num_tasks, dim, std=dim**-0.5 / self.scale)
        self.basis = nn.Parameter(torch.zeros(dim, len(origin)))
        self.origin = nn.Parameter(origin)

    def make(self, task_ids: Tensor) -> None:
        """Generate the weights of every row's task (B,) and pass them to the parts that use them."""
        with torch.autocast(task_ids.device.type, enabled=False):
            codes = self.scale * self.codes.of_row_tasks("table", task_ids)  # (B, E)
            rows = torch.addmm(self.origin, codes, self.basis)  # (B, P)
        slices = rows.split([math.prod(shape) for _, _, shape in self.places], dim=1)
        for (part, name, shape), own in zip(self.places, slices, strict=True):
            part.made = {**(part.made or {}), name: own.unflatten(1, shape)}

    def forget(self) -> None:
        """Release the generated weights."""
        for part, _, _ in self.places:
            part.made = None

    def names(self, module: nn.Module) -> list[str]:
        """Return the names in `module` of the tables it replaces, in the order of their slices in theta."""
        prefixes = {part: prefix for prefix, part in module.named_modules()}
        return [f"{prefixes[part]}.{name}" for part, name, _ in self.places]

    def columns(self, module: nn.Module, names: Sequence[str]) -> Tensor:
        """Return the places in theta of some tables, by their `names` in `module`."""
        sizes = [math.prod(shape) for _, _, shape in self.places]
        parts = torch.arange(sum(sizes)).split(sizes)
        places = dict(zip(self.names(module), parts, strict=True))
        return torch.cat([places[name] for name in names])

    @contextmanager
    def alone(self, task: int) -> Iterator[None]:
        """Generate the weights of one task, for `TaskOwned.of` inside the block."""
        self.make(torch.tensor([task], device=self.origin.device))
        try:
            yield
        finally:
            self.forget()


class _Embeddings(TaskOwned):
    """The embedding of each task, `table` (K, E), initialised with a standard deviation of `std`."""

    def __init__(self, num_tasks: int, dim: int, *, std: float):
        super().__init__()
        self.table, self.std = nn.Parameter(torch.zeros(num_tasks, dim)), std

    def draw(self, task: int) -> None:
        """Initialise a task's embedding."""
        nn.init.normal_(self.table.data[task], std=self.std)


def owning_parts(module: nn.Module) -> dict[str, TaskOwned]:
    """Return the parts of a module that have per-task parameters, by their names."""
    parts = {name: part for name, part in module.named_modules() if isinstance(part, TaskOwned)}
    return {name: part for name, part in parts.items() if any(True for _ in part.parameters())}


def draw(parts: Sequence[TaskOwned], task: int, words: str) -> None:
    """Initialise a task's weights in some parts, on the CPU, whose generator `words` seed by their hash."""
    seed = int.from_bytes(hashlib.blake2b(words.encode(), digest_size=7).digest(), "big")
    torch.default_generator.manual_seed(seed)  # torch.manual_seed takes a millisecond, for other devices
    for part in parts:
        part.draw(task)


def task_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the per-task parameters with their names."""
    for prefix, part in owning_parts(module).items():
        yield from part.named_parameters(prefix)


def shared_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters shared by all tasks, with their names."""
    owned = {name for name, _ in task_parameters(module)}
    yield from ((name, parameter) for name, parameter in module.named_parameters() if name not in owned)


@contextmanager
def taking(module: nn.Module, task_ids: Sequence[int]) -> Iterator[dict[str, Tensor]]:
    """Use copies of some tasks' slices of the trained parameters inside the block; yield them by name.

    The tasks must be in ascending order; no other task may be used inside the block.
    """
    taken: dict[str, Tensor] = {}
    parts, ids = owning_parts(module), torch.tensor(task_ids, dtype=torch.long)
    try:
        for prefix, part in parts.items():
            trained = {n: p for n, p in part.named_parameters(recurse=False) if p.requires_grad}
            for table in trained.values():
                ids = ids.to(table.device)
            own = {n: table.detach().index_select(0, ids).requires_grad_() for n, table in trained.items()}
            part.taken = TakenSlices(ids, own)
            taken |= {f"{prefix}.{name}" if prefix else name: slices for name, slices in own.items()}
        yield taken
    finally:
        for part in parts.values():
            part.taken = None


def weights_of(module: nn.Module, space: Hypernetwork | None, task: int) -> dict[str, Tensor]:
    """Return a task's slice of each table by name, even if a hypernetwork `space` replaces the tables."""
    if space is None:
        return {name: table.detach()[task].clone() for name, table in task_parameters(module)}
    with torch.no_grad(), space.alone(task):
        made = [part.made[name][0] for part, name, _ in space.places]
    return dict(zip(space.names(module), made, strict=True))


def start_from(module: nn.Module, space: Hypernetwork | None, weights: Mapping[str, Tensor]) -> None:
    """Set the slices of all tasks to `weights`, as `weights_of` returns them; with a hypernetwork, g0."""
    with torch.no_grad():
        if space is not None:
            space.origin.copy_(torch.cat([weights[name].flatten() for name in space.names(module)]))
            return
        for name, table in task_parameters(module):
            table.copy_(weights[name].expand_as(table))


def _tables(module: nn.Module) -> list[tuple[TaskOwned, str, nn.Parameter]]:
    return [
        (part, name, table)
        for part in owning_parts(module).values()
        for name, table in part.named_parameters(recurse=False)
    ]
