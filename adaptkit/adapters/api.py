"""The interface between adapters and the base model.

At each `Site` of a kind it wants, an adapter computes the new output: `adapt(site, x_in, x_out)`. It is
called by forward hooks (`base.sites.attached`); no module of the base model is replaced. A module of
`adapters/kinds` holds a docstring with the paper, a frozen `Config`, one `Adapter` subclass with its
equation, and `build`; its file name is the `kind` of the yaml. There is no other list of adapter types.
"""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import ModuleType
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field, SerializeAsAny, StrictInt, model_validator
from torch import Tensor, nn

from adaptkit.adapters import kinds
from adaptkit.adapters.catalog import available
from adaptkit.adapters.fold import Fold
from adaptkit.adapters.per_task import Hypernetwork, draw, owning_parts, task_parameters
from adaptkit.adapters.site import Site
from adaptkit.config import Config, Width
from adaptkit.errors import ConfigError, counted, nearest
from adaptkit.tensors import AllocationLimit, memory_bytes


class AdapterConfig(Config):
    """The options of every adapter type: its name, and the source of the per-task weights."""

    kind: str
    bank: Literal["table", "space"] = Field(
        "table",
        description="table: per-speaker weights; space: weights generated from a speaker embedding by a "
        "hypernetwork that all speakers share",
    )
    space_dim: Width | None = Field(
        None, description="dimension E of the speaker embedding; only with 'bank: space'"
    )

    @model_validator(mode="after")
    def _space_has_its_size(self) -> "AdapterConfig":
        if self.bank == "space" and self.space_dim is None:
            raise ValueError("'bank: space' needs 'space_dim', the dimension of the speaker embedding")
        if self.bank == "table" and self.space_dim is not None:
            raise ValueError(f"'space_dim: {self.space_dim}' has no effect with 'bank: table'; remove it")
        return self


Blocks = Annotated[tuple[StrictInt, ...], Field(min_length=1, max_length=1000)] | None  # blocks with adapters


class Adapter(nn.Module):
    """Base class of all adapter types: the kinds of site it wants, and the new output of each.

    `task_ids` (B,) holds the task of every row during a forward pass. A row for the base model itself has an
    arbitrary valid index, since the result of `adapt` for it is replaced with `x_out`. `adapt` may change
    `x_out` in place; with gradients enabled, only if the module that computed it does not need it for the
    backward pass.
    """

    wants: frozenset[str] = frozenset()
    task_ids: Tensor | None = None
    frames: Tensor | None = None  # (B,) length of each row, while it adapts the encoder's output
    spares_encoder: bool = False  # whether only the encoder's output changes
    changes_encoder: bool = False  # whether `differences` has weights that the encoder's output depends on
    taps: tuple[Site, ...] = ()  # blocks whose outputs it reads, if it spares the encoder
    is_cached: bool = False  # whether training reads these and the encoder's output from disk

    def __init__(self) -> None:
        super().__init__()
        self.space: Hypernetwork | None = None  # generates the per-task weights; None: a table holds them

    def choose_tasks(self, task_ids: Tensor | None) -> None:
        """Set the task of every row (B,) for the forward passes that follow; None after the last one."""
        self.task_ids = task_ids
        if self.space is None or self.wants == {"weight"}:  # their differences are read outside of passes
            return
        if task_ids is None:
            self.space.forget()
        else:
            self.space.make(task_ids)

    def alone(self, task: int) -> AbstractContextManager[None]:
        """Select one task outside of a forward pass, for code that reads its weights by `TaskOwned.of`."""
        return nullcontext() if self.space is None else self.space.alone(task)

    def adapt(self, site: Site, x_in: Tensor, x_out: Tensor) -> Tensor:
        """Return the new output of a site, shaped as `x_out` (B, U, dim_out); `x_in` is (B, U, dim_in)."""
        raise NotImplementedError

    def differences(self, task: int) -> Mapping[str, Tensor]:
        """Return a task's differences to the base model's parameters, by name; for sites of kind `weight`."""
        return {}

    def group(self, task: int) -> int:
        """Return a number that is equal for tasks with equal `differences`."""
        return 0

    def fold(self, task: int) -> Sequence[Fold]:
        """Return the changes to the base model's weights that are equivalent to a task's adapter.

        If there are none, this raises ConfigError with the reason.
        """
        raise ConfigError("it is not a linear map parallel to a linear map of the base model")

    def begin(self) -> None:
        """Start a forward pass of the encoder; an adapter with state over depth resets it here."""

    def end(self) -> None:
        """End a forward pass of the encoder; all activations must be released here."""


class AdapterStack(nn.ModuleList):
    """The adapters of an experiment, applied in order at each site, for a list of tasks."""

    def __init__(self, members: Sequence[Adapter], configs: Sequence[AdapterConfig], tasks: Sequence[str]):
        super().__init__(members)
        self.configs, self.tasks = tuple(configs), tuple(tasks)
        self.base_rows: Tensor | None = None
        self.num_rows: int | None = None  # B, in a forward pass

    @property
    def kind(self) -> str:
        """The adapter types in the order of application: `residual`, or `residual+hff`."""
        return "+".join(entry.kind for entry in self.configs)

    @property
    def changes_weights(self) -> bool:
        """Whether weights of the base model change, so that what uses them runs once per `group` of tasks."""
        return any("weight" in member.wants for member in self)

    @property
    def mixes_tasks(self) -> bool:
        """Whether one pass of the encoder serves any tasks: no weight changes that its output depends on."""
        return not any(member.changes_encoder for member in self)

    @property
    def num_parameters(self) -> int:
        """The parameter count, for all tasks together."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def num_per_task(self) -> int:
        """The parameter count per task, that of one additional task."""
        return sum(parameter[0].numel() for _, parameter in task_parameters(self))

    def group(self, task: int) -> tuple[int, ...]:
        """Return a value that is equal for tasks with equal weight differences, which one pass can serve."""
        members = self if self.changes_weights else ()
        return tuple(member.group(task) if task >= 0 else -1 for member in members)

    def differences(self, task: int) -> dict[str, Tensor]:
        """Return a task's differences to the base model's parameters, by name; empty for the base model."""
        total: dict[str, Tensor] = {}
        for member in self if task >= 0 and self.changes_weights else ():
            with member.alone(task):
                for name, difference in member.differences(task).items():
                    total[name] = total[name] + difference if name in total else difference
        return total

    @property
    def taps(self) -> tuple[Site, ...]:
        """The blocks whose outputs some adapter reads, in order."""
        found = {site for member in self for site in member.taps}
        return tuple(sorted(found, key=lambda site: site.block))

    @property
    def is_cached(self) -> bool:
        """Whether training reads the encoder's outputs from disk."""
        return any(member.is_cached for member in self)

    @contextmanager
    def for_tasks(self, task_ids: Sequence[int], device: torch.device | str = "cpu") -> Iterator[None]:
        """Set the task of every row for the forward passes inside the block; -1 is the base model itself."""
        outside = [index for index in task_ids if not -1 <= index < len(self.tasks)]
        if outside:
            raise ValueError(f"task ids {sorted(set(outside))} are outside the {len(self.tasks)} tasks")
        ids = torch.tensor(task_ids, dtype=torch.long, device=device)
        self.base_rows, self.num_rows = ids < 0 if min(task_ids) < 0 else None, len(task_ids)
        try:
            for member in self:
                member.choose_tasks(ids.clamp(min=0))
            yield
        finally:
            self.base_rows = self.num_rows = None
            for member in self:
                member.choose_tasks(None)

    def adapt(self, site: Site, x_in: Tensor, x_out: Tensor, frames: Tensor | None = None) -> Tensor:
        """Apply each adapter that wants this kind of site in turn; rows of the base model stay unchanged.

        `frames` (B,) holds the lengths of the rows at the encoder's output; None means that no row is padded.
        """
        if any(member.task_ids is None for member in self):
            raise ConfigError(
                f"{site.name} was run outside a forward pass with tasks; activation checkpointing does so in "
                "the backward pass: disable it in the base's config.yaml"
            )
        kept = None if self.base_rows is None else x_out[self.base_rows]  # a copy
        adapted = x_out
        for member in self:
            if site.kind in member.wants:
                member.frames = frames
                adapted = member.adapt(site, x_in, adapted).to(x_out.dtype)
                member.frames = None
        if kept is None:
            return adapted
        return adapted.index_put((self.base_rows,), kept)


def load_kind(kind: Any) -> ModuleType:
    """Import the module of an adapter type; an unknown one is a ConfigError with the closest name."""
    if kind not in available():
        known = nearest(str(kind), available()) or f"; known: {', '.join(available())}"
        raise ConfigError(f"there is no adapter type '{kind}'{known}")
    return importlib.import_module(f"{kinds.__name__}.{kind}")


def read_config(entry: Any) -> AdapterConfig:
    """Validate one entry of an `adapters:` list against the Config of its adapter type."""
    if isinstance(entry, AdapterConfig):
        return entry
    if not isinstance(entry, dict) or not isinstance(entry.get("kind"), str):
        raise ValueError(f"expected 'kind: <name>', one of {', '.join(available())}, and its options")
    try:
        return load_kind(entry["kind"]).Config.model_validate(entry)
    except ConfigError as error:
        raise ValueError(str(error)) from error


AnyAdapterConfig = Annotated[SerializeAsAny[AdapterConfig], BeforeValidator(read_config)]


def build(
    configs: Sequence[AdapterConfig],
    sites: Sequence[Site],
    tasks: Sequence[str],
    seed: int | None,
    *,
    most_bytes: int | None = None,
) -> AdapterStack:
    """Build an experiment's adapters; one without any site to act on is refused.

    Per-task weights are initialised from `seed` and the name of the task, the others from `seed`, so that a
    task's initial weights do not depend on other tasks. With seed=None per-task weights stay zero, to be
    loaded later. Adapters that would take more than `most_bytes`, by default the memory of this machine, are
    refused before they are allocated.
    """
    members = []
    most_bytes = memory_bytes() if most_bytes is None else most_bytes
    too_large = ConfigError(
        f"adapters {'+'.join(entry.kind for entry in configs)} for {counted(len(tasks), 'speaker')} take "
        f"more than {most_bytes / 2**20:,.1f} MiB; reduce their widths, or train fewer speakers at once"
    )
    with torch.random.fork_rng(devices=[]), AllocationLimit(most_bytes, too_large):
        for position, entry in enumerate(configs):
            member = _build_member(entry, sites, len(tasks), seed=seed or 0)
            members.append(member)
            parts = list(owning_parts(member).values())
            for index, task in enumerate(tasks if seed is not None else ()):
                draw(parts, index, f"{seed} {position} {task}")
    return AdapterStack(members, configs, tasks)


def _build_member(entry: AdapterConfig, sites: Sequence[Site], num_tasks: int, *, seed: int) -> Adapter:
    torch.default_generator.manual_seed(seed)
    is_space = entry.bank == "space"
    member = load_kind(entry.kind).build(entry, sites, 1 if is_space else num_tasks)
    if not any(site.kind in member.wants for site in sites):
        have = ", ".join(sorted({site.kind for site in sites})) or "none"
        raise ConfigError(
            f"adapter '{entry.kind}' acts on sites of kind {', '.join(sorted(member.wants))}, "
            f"and this base model has {have}"
        )
    if not is_space:
        return member
    parts = list(owning_parts(member).values())
    if not parts:
        raise ConfigError(
            f"adapter '{entry.kind}': 'bank: space' generates per-speaker weights, and there are none; "
            "set 'bank: table'"
        )
    draw(parts, 0, f"{seed} g0")
    member.space = Hypernetwork(member, num_tasks, entry.space_dim)
    return member
