"""What kinds of adapter say of themselves, and the convention that lets them be read."""

import re
from pathlib import Path

import pytest

from adaptkit import config
from adaptkit.adapters import api, describe
from adaptkit.adapters.catalog import available
from adaptkit.errors import ConfigError

ROOT = Path(__file__).parents[2]
SITES = tuple(api.Site(f"encoder.encoders.{index}", "block", index, 16, 16) for index in range(2))


@pytest.fixture(params=available())
def info(request):
    """What each kind says of itself."""
    return describe.describe_adapter(request.param)


def test_a_kind_says_in_one_line_what_it_is(info):
    assert info.title
    assert "\n" not in info.title


def test_a_kind_names_its_paper_with_year_and_number(info):
    assert re.fullmatch(r"([\w-]+ ){1,2}(et al\. )?(19|20)\d\d, arXiv:\d{4}\.\d{4,5}", info.cited)


def test_a_kind_marks_what_comes_from_where(info):
    assert re.search(r"\[(abstract|review|code|ours)\]", info.provenance)


def test_a_kind_gives_its_equation(info):
    assert " + " in info.equation


def test_a_kind_gives_the_closed_form_of_its_numbers_in_one_line(info):
    assert re.search(r"\bK\b", info.closed_form)
    assert len(info.closed_form) < 80


def test_every_option_has_a_type_and_help(info):
    assert [option.name for option in info.options if not (option.type and option.help)] == []


def test_the_example_of_a_kind_is_its_defaults(info, tmp_path):
    entry = describe.read(info.kind)
    (tmp_path / "example.yaml").write_text(describe.describe_adapter(entry.kind).as_yaml(config.dump(entry)))
    (again,) = config.read_yaml(tmp_path / "example.yaml")["adapters"]
    assert api.read_config(again) == entry


def test_the_first_of_several_papers_is_cited():
    assert describe.describe_adapter("residual").cited == "Houlsby et al. 2019, arXiv:1902.00751"


def test_types_are_said_in_words():
    types = {option.name: option.type for option in describe.describe_adapter("residual").options}
    assert types["bottleneck"] == "integer > 0 <= 65536"
    assert types["placement"] == "block_sequential | block_parallel"
    assert types["blocks"] == "[integer] | null"


def test_an_unknown_kind_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="no adapter type 'residul'; did you mean 'residual'"):
        describe.describe_adapter("residul")


def test_a_misspelt_option_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="bottelneck: unknown key; did you mean 'bottleneck'"):
        describe.read("residual", ["bottelneck=4"])


def test_cost_of_what_tasks_own_is_the_closed_form():
    cost = describe.measure(describe.read("residual", ["bottleneck=4"]), SITES)
    assert cost == describe.AdapterSize({"block": 2}, per_task=2 * (2 * 16 * 4 + 4 + 16), shared=0)


def test_cost_of_what_tasks_share_is_told_apart():
    cost = describe.measure(describe.read("hra", ["controller_width=8"]), SITES)
    assert (cost.per_task, cost.shared) == (8 * 16 + 16, 16 * 8 + 2 * 8)


def test_sites_are_those_of_the_chosen_blocks():
    cost = describe.measure(describe.read("residual", ["blocks=[1]"]), SITES)
    assert cost.sites == {"block": 1}


def test_the_output_of_the_encoder_is_a_site_whatever_blocks_are_read():
    sites = [*SITES, api.Site("encoder", "encoder_out", -1, 16, 16)]
    cost = describe.measure(describe.read("hff", ["taps=[1]"]), sites)
    assert cost.sites == {"block": 1, "encoder_out": 1}


def test_weights_are_sites_where_they_change():
    shapes = {"ctc.weight": (5, 16), "ctc.bias": (5,)}
    sites = [api.Site(name, "weight", -1, 16, 5, shape=shape) for name, shape in shapes.items()]
    assert describe.measure(describe.read("bitfit"), sites) == describe.AdapterSize(
        {"weight": 1}, per_task=5, shared=0
    )
    assert describe.measure(describe.read("full"), sites).sites == {"weight": 2}
