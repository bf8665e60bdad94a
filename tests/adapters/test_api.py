"""The seam: which kinds there are, how their options are read, and the order in which they act."""

import pytest
import torch
from torch import nn

from adaptkit.adapters import api
from adaptkit.adapters.api import Adapter, AdapterStack
from adaptkit.adapters.catalog import available
from adaptkit.adapters.kinds.residual import Config, Residual
from adaptkit.adapters.site import Site
from adaptkit.errors import ConfigError

SITE = Site("encoder.encoders.0", "block", 0, 4, 4)


class Plus(Adapter):
    """Add a number."""

    wants = frozenset({"block"})

    def __init__(self, number):
        super().__init__()
        self.number = nn.Parameter(torch.tensor(number))

    def adapt(self, site, x_in, x_out):
        return x_out + self.number


class Times(Plus):
    """Multiply by a number."""

    def adapt(self, site, x_in, x_out):
        return x_out * self.number


def stack_of(*members):
    return AdapterStack(members, [Config()] * len(members), ["spk1", "spk10"])


def test_available_kinds_are_the_modules_of_the_package():
    assert "residual" in available()
    assert not {"api", "per_task"} & set(available())


def test_unknown_kind_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="no adapter type 'residul'; did you mean 'residual'"):
        api.load_kind("residul")


def test_an_entry_becomes_the_config_of_its_kind():
    assert api.read_config({"kind": "residual", "bottleneck": 8}) == Config(bottleneck=8)


@pytest.mark.parametrize("entry", ["residual", {"bottleneck": 8}, None])
def test_an_entry_without_kind_is_refused(entry):
    with pytest.raises(ValueError, match="expected 'kind: <name>', one of .*residual"):
        api.read_config(entry)


def test_adapters_act_in_order():
    stack, x = stack_of(Plus(1.0), Times(2.0)), torch.ones(2, 3, 4)
    with stack.for_tasks((0, 1)):
        assert torch.equal(stack.adapt(SITE, x, x), torch.full((2, 3, 4), 4.0))


def test_an_adapter_is_asked_only_at_sites_it_wants():
    stack, x = stack_of(Plus(1.0)), torch.ones(2, 3, 4)
    with stack.for_tasks((0, 1)):
        assert torch.equal(stack.adapt(Site("a", "ffn", 0, 4, 4), x, x), x)


def test_rows_of_the_base_leave_as_they_came_even_if_an_adapter_gives_nan():
    stack, x = stack_of(Plus(float("nan"))), torch.ones(2, 3, 4)
    with stack.for_tasks((-1, 1)):
        adapted = stack.adapt(SITE, x, x)
    assert torch.equal(adapted[0], x[0])
    assert adapted[1].isnan().all()


def test_tasks_are_let_go_of_after_an_exception():
    stack = stack_of(Plus(1.0))
    with pytest.raises(KeyError), stack.for_tasks((0, -1)):
        raise KeyError
    assert stack.base_rows is None
    assert stack[0].task_ids is None


def test_kinds_are_joined_as_they_act():
    assert AdapterStack([Plus(1.0), Plus(1.0)], [Config(), Config()], ["a"]).kind == "residual+residual"


def test_building_draws_nothing_from_the_global_generator():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    api.build([Config()], [SITE], ["spk1"], seed=5)
    assert torch.equal(torch.rand(1), expected)


def test_another_seed_gives_other_weights():
    first, second = (api.build([Config()], [SITE], ["spk1"], seed=seed) for seed in (0, 1))
    key = f"0.down.{SITE.key}.weight"
    assert not torch.equal(first.state_dict()[key], second.state_dict()[key])


def test_residual_keeps_one_pair_of_matrices_per_block():
    member = Residual(Config(bottleneck=2), [SITE, Site("encoder", "encoder_out", -1, 4, 4)], num_tasks=3)
    assert list(member.down) == ["encoder-encoders-0"]
