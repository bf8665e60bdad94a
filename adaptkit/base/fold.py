"""Fold the adapters of one task into the weights of their base model, and unfold them again.

A difference to a linear map is added to its weight. Hidden units parallel to a feed-forward are appended
to it. In ESPnet all feed-forwards of an encoder have the same number of units, so each gains as many as
the one that gains most; unused units have zero weights on both sides and contribute nothing.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from adaptkit import config as configuration
from adaptkit import locks
from adaptkit.adapters.api import AdapterStack
from adaptkit.adapters.fold import Added, Fold, Widened
from adaptkit.adapters.per_task import task_parameters
from adaptkit.adapters.site import Site
from adaptkit.base.checkpoint import BaseModel, save, wrap
from adaptkit.base.importing import copy_parts, opened_again
from adaptkit.config import Config, NonNegativeInt
from adaptkit.errors import CheckpointError, ConfigError, listed, nearest
from adaptkit.folders import RunFolder
from adaptkit.records import RecordedModel, write_record
from adaptkit.tensors import hash_tensors

_FEED_FORWARDS = ("ffn_macaron", "ffn")


class Folded(Config):
    """An entry of `adaptkit: merged:` in the `config.yaml` of a folded model, one for each fold."""

    kind: str = Field(description="adapter types, joined with +")
    task: str = Field(description="speaker of the folded adapters")
    base_fingerprint: str = Field(description="fingerprint of the base model before folding")
    fingerprint: str = Field(description="fingerprint of the folded model")
    adapter_digest: str = Field(description="hash of the speaker's and the shared adapter weights")
    num_units: NonNegativeInt = Field(description="hidden units added to every feed-forward")


@dataclass(frozen=True)
class _Changes:
    """The changes of a fold: differences by parameter name, and hidden units by feed-forward name."""

    differences: dict[str, Tensor] = field(default_factory=dict)
    units: dict[str, list[Widened]] = field(default_factory=dict)

    def add(self, name: str, difference: Tensor) -> None:
        known = self.differences.get(name)
        self.differences[name] = difference if known is None else known + difference

    @property
    def num_units(self) -> int:
        """The number of units added to the feed-forward that gains most."""
        return max((sum(len(part.bias_in) for part in own) for own in self.units.values()), default=0)


@dataclass(frozen=True)
class _FeedForward:
    """A feed-forward of a model: its two linear maps, and its activation in lower case."""

    site: Site
    first: nn.Linear
    second: nn.Linear
    second_name: str
    activation: str


@torch.no_grad()
def fold(base: BaseModel, stack: AdapterStack, task: str) -> BaseModel:
    """Return a base model equivalent to `base` with a task's adapters, if there is one."""
    changes = _collect(base, stack, _index(stack, task))
    model = copy.deepcopy(base.model)
    config = dict(base.config)
    if changes.units:
        feed_forwards = list(_feed_forwards(model, base.sites))
        for feed_forward in feed_forwards:
            _widen(feed_forward, changes.units.get(feed_forward.site.name, ()), changes.num_units)
        config["encoder_conf"] = _with_units(config, feed_forwards)
    _add(model, changes.differences, sign=1)
    folded = _changed(base, config, model)
    entry = Folded(
        kind=stack.kind,
        task=task,
        base_fingerprint=base.fingerprint,
        fingerprint=folded.fingerprint,
        adapter_digest=_digest(stack, task),
        num_units=changes.num_units,
    )
    entries = [*_entries(base), configuration.dump(entry)]
    return replace(folded, config=_with_entries(config, entries))


@torch.no_grad()
def narrow(folded: BaseModel) -> BaseModel:
    """Remove the units that the last fold added; the result has its base model's sites and fingerprint.

    `unfold` then restores the weights of that base model.
    """
    entry = read_last(folded)
    if entry.fingerprint != folded.fingerprint:
        raise CheckpointError(
            f"{folded.path}: has changed since 'adaptkit adapters fold' made it (fingerprint "
            f"{folded.fingerprint}, expected {entry.fingerprint}); fold again to get a model to unfold"
        )
    model, config = copy.deepcopy(folded.model), dict(folded.config)
    if entry.num_units:
        feed_forwards = list(_feed_forwards(model, folded.sites))
        for feed_forward in feed_forwards:
            _cut(feed_forward, entry.num_units)
        config["encoder_conf"] = _with_units(config, feed_forwards)
    return replace(_changed(folded, config, model), fingerprint=entry.base_fingerprint)


@torch.no_grad()
def unfold(narrowed: BaseModel, stack: AdapterStack, task: str) -> BaseModel:
    """Subtract from a narrowed model the differences that folding a task's adapters added.

    The adapters must be bit-identical to those that were folded. Removing units restores the base model
    exactly; where differences were added, the weights equal the base model's up to rounding, and the
    fingerprint differs.
    """
    entry, index = read_last(narrowed), _index(stack, task)
    made = (entry.kind, entry.task, entry.adapter_digest)
    if made != (stack.kind, task, _digest(stack, task)):
        raise CheckpointError(
            f"{narrowed.path}: folded with {entry.kind} of speaker '{entry.task}'; {stack.kind} of speaker "
            f"'{task}' has other weights; give the experiment and speaker that were folded"
        )
    model = copy.deepcopy(narrowed.model)
    _add(model, _collect(narrowed, stack, index).differences, sign=-1)
    return _changed(narrowed, _with_entries(narrowed.config, _entries(narrowed)[:-1]), model)


def read_last(base: BaseModel) -> Folded:
    """Return the last fold recorded in a model's configuration; CheckpointError if there is none."""
    entries = _entries(base)
    if not entries:
        raise CheckpointError(
            f"{base.path}/config.yaml: no 'adaptkit: merged:'; use a model made by 'adaptkit adapters fold'"
        )
    return configuration.check(Folded, entries[-1], f"{base.path}/config.yaml: adaptkit.merged")


def write(base: BaseModel, folder: Path) -> None:
    """Write a model and a record of it to a folder without weights, as an archive that ESPnet reads.

    Paths in its configuration are absolute: ESPnet's `Speech2Text` finds the files from any working folder.
    """
    own = RunFolder(folder)
    with locks.hold(folder, parts=("lm",)):
        for file, what in ((own.model, "a base model"), (own.adapter, "adapters")):
            if file.exists():
                raise ConfigError(f"{folder}: already contains {what}; choose another folder with --out")
        config = copy_parts(base, folder)
        made = RecordedModel(folder.resolve().name, "base", (), base.num_parameters, 0)
        counts = {"base_fingerprint": base.fingerprint, "params_base": base.num_parameters}
        write_record(folder, made, **counts, device="cpu")
        save(folder, config, base.model.state_dict())  # the model last, so that a killed run can be repeated


def _changed(base: BaseModel, config: Mapping[str, Any], model: nn.Module) -> BaseModel:
    """Return a base model with another configuration and model, and the same files."""
    with opened_again(base) as files:
        return replace(wrap(base.path, config, model, files), files=base.files)


def _index(stack: AdapterStack, task: str) -> int:
    if task not in stack.tasks:
        known = nearest(task, stack.tasks) or f"; known: {listed(stack.tasks)}"
        raise ConfigError(f"--speaker {task}: there are no adapters of that speaker{known}")
    return stack.tasks.index(task)


def _collect(base: BaseModel, stack: AdapterStack, task: int) -> _Changes:
    """Collect the changes of all adapters; one that cannot be folded is refused with the reason."""
    changes = _Changes()
    feed_forwards = {part.site.name: part for part in _feed_forwards(base.model, base.sites)}
    for member, entry in zip(stack, stack.configs, strict=True):
        try:
            with member.alone(task):
                for name, difference in member.differences(task).items():
                    changes.add(name, difference)
                for part in member.fold(task):
                    _take(changes, part, feed_forwards)
        except ConfigError as error:
            raise ConfigError(f"adapter '{entry.kind}' cannot be folded into a base model: {error}") from None
    return changes


def _take(changes: _Changes, fold: Fold, feed_forwards: Mapping[str, _FeedForward]) -> None:
    """Add one fold to the changes."""
    name = fold.site.name
    if isinstance(fold, Added):
        for leaf, term in (("weight", fold.weight), ("bias", fold.bias)):
            if term is not None:
                changes.add(f"{name}.{leaf}", term)
        return
    if name not in feed_forwards:
        raise ConfigError(f"{name} of the base model is not two linear maps with an activation between")
    base = feed_forwards[name]
    if base.activation != fold.activation:
        raise ConfigError(
            f"the units of {name} have the activation {base.activation}, the adapter's have "
            f"{fold.activation}; train it with 'activation: {base.activation}'"
        )
    changes.units.setdefault(name, []).append(fold)
    changes.add(f"{base.second_name}.bias", fold.bias_out)


def _feed_forwards(model: nn.Module, sites: Sequence[Site]) -> Iterator[_FeedForward]:
    """Find the feed-forwards that are two linear maps with an activation between."""
    maps = {(site.block, site.kind): site.name for site in sites}
    for site in sites:
        first, second = (maps.get((site.block, f"{site.kind}_{end}")) for end in ("in", "out"))
        if site.kind not in _FEED_FORWARDS or not first or not second:
            continue
        activation = getattr(model.get_submodule(site.name), "activation", None)  # none in a gating MLP
        if activation is not None:
            halves = (model.get_submodule(first), model.get_submodule(second))
            name = type(activation).__name__.lower()
            yield _FeedForward(site, *halves, second_name=second, activation=name)


def _widen(base: _FeedForward, parts: Sequence[Widened], num_units: int) -> None:
    """Append the units of `parts`, then zero units up to `num_units`."""
    first, second = base.first, base.second
    weight_in, bias_in = first.weight.new_zeros(num_units, first.in_features), first.bias.new_zeros(num_units)
    weight_out = second.weight.new_zeros(second.out_features, num_units)
    start = 0
    for part in parts:
        units = slice(start, start + len(part.bias_in))
        weight_in[units], bias_in[units], weight_out[:, units] = part.weight_in, part.bias_in, part.weight_out
        start = units.stop
    _replace(first, torch.cat([first.weight, weight_in]), torch.cat([first.bias, bias_in]))
    _replace(second, torch.cat([second.weight, weight_out], dim=1), second.bias)


def _cut(base: _FeedForward, num_units: int) -> None:
    """Remove the last units."""
    first, second = base.first, base.second
    _replace(first, first.weight[:-num_units].clone(), first.bias[:-num_units].clone())
    _replace(second, second.weight[:, :-num_units].clone(), second.bias)


def _replace(linear: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    linear.weight, linear.bias = (nn.Parameter(part, requires_grad=False) for part in (weight, bias))
    linear.out_features, linear.in_features = weight.shape


def _add(model: nn.Module, differences: Mapping[str, Tensor], sign: int) -> None:
    """Add differences to parameters, or subtract them; in a widened weight, to the first units."""
    for name, difference in differences.items():
        parameter = model.get_parameter(name)
        old = parameter.data[tuple(slice(size) for size in difference.shape)]
        old.add_(difference, alpha=sign)


def _with_units(config: Mapping[str, Any], feed_forwards: Sequence[_FeedForward]) -> dict[str, Any]:
    return {**config["encoder_conf"], "linear_units": feed_forwards[0].first.out_features}


def _entries(base: BaseModel) -> list[Mapping[str, Any]]:
    return list((base.config.get("adaptkit") or {}).get("merged", []))


def _with_entries(config: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Replace the entries of folds in a configuration; without any, remove the section."""
    own = {name: value for name, value in (config.get("adaptkit") or {}).items() if name != "merged"}
    if entries:
        own["merged"] = list(entries)
    return {**config, "adaptkit": own or None}


def _digest(stack: AdapterStack, task: str) -> str:
    """Hash all weights that are used for a task; 16 hexadecimal digits."""
    owned = {name for name, _ in task_parameters(stack)}
    acting = {
        name: tensor[stack.tasks.index(task)] if name in owned else tensor
        for name, tensor in stack.state_dict().items()
    }
    return hash_tensors(acting, num_bytes=8)
