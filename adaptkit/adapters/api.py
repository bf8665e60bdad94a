"""The seam between adapters and the base model.

An adapter is asked, at each `Site` of a kind it wants, what should come out: `adapt(site, x_in, x_out)`.
Forward hooks carry it (`base.sites.attached`); nothing in the base is replaced. A module of this package
holds a docstring with the paper, a frozen `Config`, one `Adapter` subclass with its equation, and `build`;
its file name is the `kind` of the yaml. No list of kinds is kept anywhere else.
"""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, Field, SerializeAsAny
from torch import Tensor, nn

from adaptkit import adapters, config
from adaptkit.errors import ConfigError, listed, nearest

SITE_KINDS = (
    "block",
    *("ffn_macaron", "ffn"),  # a feed-forward, as it reads its input: normalised in a pre-norm block
    *("ffn_macaron_raw", "ffn_raw"),  # the same, with the branch's input before that norm as x_in
    *("ffn_macaron_in", "ffn_macaron_out", "ffn_in", "ffn_out"),  # the two linear maps of each
    *("query", "key", "value", "out"),
    "encoder_out",
    "weight",  # a parameter of the base, which an adapter changes by a difference of its `shape`
)
_NOT_KINDS = ("api", "per_task")


@dataclass(frozen=True)
class Site:
    """A place in the base model where an adapter can act; `block` counts from 0, -1 outside the blocks."""

    name: str  # path of the module or parameter in the base, for example encoder.encoders.0.feed_forward
    kind: str  # one of SITE_KINDS
    block: int
    dim_in: int
    dim_out: int
    input_of: str = ""  # path of the module whose input is x_in, where it is not the site's own
    shape: tuple[int, ...] = ()  # of a weight

    @property
    def key(self) -> str:
        """The name as torch allows it in a ModuleDict."""
        return self.name.replace(".", "-")


class AdapterConfig(config.Config):
    """What every kind's configuration has: its `kind`, which is the name of its module."""

    kind: str


Blocks = Annotated[tuple[int, ...], Field(min_length=1)] | None  # for a kind that can be left out of some


class Adapter(nn.Module):
    """What every kind subclasses: the kinds of site it wants, and what should come out of each.

    `task_ids` (B,) names the task of every row during a forward pass. A row of the base itself has -1;
    whatever `adapt` returns for it is replaced by `x_out`, so weights may be gathered with any valid index
    there.
    """

    wants: frozenset[str] = frozenset()
    task_ids: Tensor | None = None
    spares_encoder: bool = False  # true where nothing before the encoder's output changes
    taps: tuple[Site, ...] = ()  # blocks whose outputs it reads where it spares the encoder
    is_cached: bool = False  # true where training reads those, and the encoder's output, from disk

    def adapt(self, site: Site, x_in: Tensor, x_out: Tensor) -> Tensor:
        """Give what should leave the site, shaped as `x_out` (B, U, dim_out); `x_in` is (B, U, dim_in)."""
        raise NotImplementedError

    def differences(self, task: int) -> Mapping[str, Tensor]:
        """Give what a task adds to parameters of the base, by their names; for sites of kind `weight`."""
        return {}

    def group(self, task: int) -> int:
        """Give a number that is the same for tasks whose `differences` are."""
        return 0

    def fold(self, task: int) -> Sequence["Fold"]:
        """Say how the base's own weights can take over what a task's adapter does, exactly.

        Where algebra does not allow it this raises ConfigError with the reason.
        """
        raise ConfigError("it is no linear map beside a linear map of the base")

    def begin(self) -> None:
        """Start a forward pass of the encoder; a kind with state over depth resets it here."""

    def end(self) -> None:
        """End a forward pass of the encoder; let go of every activation here."""


@dataclass(frozen=True)
class Added:
    """A difference (dim_out, dim_in) to the weight of the linear map at `site`, and one to its bias."""

    site: Site
    weight: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True)
class Widened:
    """Hidden units that a feed-forward gains: W_in (R, D), b_in (R,), W_out (D, R), and b_out (D,) added."""

    site: Site  # of kind ffn or ffn_macaron
    activation: str  # that the feed-forward must have, by the name of its class in lower case
    weight_in: Tensor
    bias_in: Tensor
    weight_out: Tensor
    bias_out: Tensor


Fold = Added | Widened


class AdapterStack(nn.ModuleList):
    """The adapters of one experiment, acting in order at each site, for one list of tasks."""

    def __init__(self, members: Sequence[Adapter], configs: Sequence[AdapterConfig], tasks: Sequence[str]):
        super().__init__(members)
        self.configs, self.tasks = tuple(configs), tuple(tasks)
        self.base_rows: Tensor | None = None

    @property
    def kind(self) -> str:
        """The kinds joined as they act: `residual`, or `residual+hff`."""
        return "+".join(entry.kind for entry in self.configs)

    @property
    def changes_weights(self) -> bool:
        """Tell whether the base's own weights change, so that a pass serves tasks of one `group` only."""
        return any("weight" in member.wants for member in self)

    def group(self, task: int) -> tuple[int, ...]:
        """Give what is the same for tasks that one pass can serve, since they change weights alike."""
        members = self if self.changes_weights else ()
        return tuple(member.group(task) if task >= 0 else -1 for member in members)

    def differences(self, task: int) -> dict[str, Tensor]:
        """Give what a task adds to parameters of the base, by their names; nothing for the base itself."""
        total: dict[str, Tensor] = {}
        for member in self if task >= 0 else ():
            for name, difference in member.differences(task).items():
                total[name] = total[name] + difference if name in total else difference
        return total

    @property
    def taps(self) -> tuple[Site, ...]:
        """Give the blocks whose outputs some adapter reads, in their order."""
        found = {site for member in self for site in member.taps}
        return tuple(sorted(found, key=lambda site: site.block))

    @property
    def is_cached(self) -> bool:
        """Tell whether training reads from disk what the encoder gives."""
        return any(member.is_cached for member in self)

    @contextmanager
    def for_tasks(self, task_ids: Sequence[int], device: torch.device | str = "cpu") -> Iterator[None]:
        """Choose the task of every row of the forward passes inside the block; -1 is the base itself."""
        outside = [index for index in task_ids if not -1 <= index < len(self.tasks)]
        if outside:
            raise ValueError(f"task ids {sorted(set(outside))} are outside the {len(self.tasks)} tasks")
        ids = torch.tensor(task_ids, dtype=torch.long, device=device)
        self.base_rows = ids < 0 if min(task_ids) < 0 else None
        for member in self:
            member.task_ids = ids.clamp(min=0)
        try:
            yield
        finally:
            self.base_rows = None
            for member in self:
                member.task_ids = None

    def adapt(self, site: Site, x_in: Tensor, x_out: Tensor) -> Tensor:
        """Ask each adapter that wants this kind of site in turn; rows of the base leave as they came."""
        adapted = x_out
        if any(member.task_ids is None for member in self):
            raise ConfigError(
                f"{site.name} was run outside a forward pass with tasks; activation checkpointing does that, "
                "in the backward pass: switch it off in the base's config.yaml"
            )
        for member in self:
            if site.kind in member.wants:
                adapted = member.adapt(site, x_in, adapted).to(x_out.dtype)
        if self.base_rows is None:
            return adapted
        return torch.where(self.base_rows[:, None, None], x_out, adapted)


def available() -> list[str]:
    """Name the kinds: the modules of this package."""
    found = [module.name for module in pkgutil.iter_modules(adapters.__path__)]
    return sorted(set(found) - set(_NOT_KINDS))


def load_kind(kind: str) -> ModuleType:
    """Import the module of a kind; an unknown one is a ConfigError with the nearest name."""
    if kind not in available():
        known = nearest(kind, available()) or f"; known: {', '.join(available())}"
        raise ConfigError(f"there is no adapter kind '{kind}'{known}")
    return importlib.import_module(f"{adapters.__name__}.{kind}")


def read_config(entry: Any) -> AdapterConfig:
    """Check one entry of an `adapters:` list against the Config of its kind."""
    if isinstance(entry, AdapterConfig):
        return entry
    if not isinstance(entry, dict) or "kind" not in entry:
        raise ValueError(f"expected 'kind: <name>', one of {', '.join(available())}, and its options")
    try:
        return load_kind(entry["kind"]).Config.model_validate(entry)
    except ConfigError as error:
        raise ValueError(str(error)) from error


AnyAdapterConfig = Annotated[SerializeAsAny[AdapterConfig], BeforeValidator(read_config)]


def choose(
    sites: Sequence[Site], kinds: frozenset[str], blocks: Blocks, *, option: str = "blocks"
) -> tuple[Site, ...]:
    """Take the sites of some kinds, those of `blocks` where it is given; a block not there is refused."""
    found = tuple(site for site in sites if site.kind in kinds)
    if blocks is None or not found:
        return found
    known = sorted({site.block for site in found})
    outside = sorted(set(blocks) - set(known))
    if outside:
        raise ConfigError(
            f"{option}: {listed(map(str, outside))} is not among this base model's, {known[0]} to {known[-1]}"
        )
    return tuple(site for site in found if site.block in blocks)


def build(
    configs: Sequence[AdapterConfig], sites: Sequence[Site], tasks: Sequence[str], seed: int
) -> AdapterStack:
    """Build an experiment's adapters, initialised from `seed` alone; one that acts nowhere is refused."""
    members = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for entry in configs:
            module = load_kind(entry.kind)
            member = module.build(entry, sites, len(tasks))
            if not any(site.kind in member.wants for site in sites):
                have = ", ".join(sorted({site.kind for site in sites})) or "none"
                raise ConfigError(
                    f"adapter '{entry.kind}' acts on sites of kind {', '.join(sorted(member.wants))}, "
                    f"and this base model has {have}"
                )
            members.append(member)
    return AdapterStack(members, configs, tasks)
