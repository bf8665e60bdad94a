"""The tables of docs/models.md: what they say is what the code does."""

import re
from pathlib import Path

import pytest
import torch

from adaptkit.adapters.catalog import available
from adaptkit.base import build, padding
from adaptkit.base.classes import CLASSES, REFUSED, UNTRUSTED
from adaptkit.base.search.choose import new_searcher
from adaptkit.errors import ConfigError
from adaptkit.model.adapted import AdaptedModel
from adaptkit.search_options import SearchRequest
from tests.fixtures.models import BRANCHFORMER, CONFORMER, E_BRANCHFORMER, MULTICONV, SIZES, STREAMING

PAGE = Path(__file__).parents[2] / "docs/models.md"
ENCODERS = {
    "conformer": CONFORMER,
    "transformer": SIZES,
    "branchformer": BRANCHFORMER,
    "e_branchformer": E_BRANCHFORMER,
    "multiconv_conformer": MULTICONV,
    "contextual_block_conformer": {**STREAMING, "cnn_module_kernel": 7},
    "contextual_block_transformer": STREAMING,
}
DECODERS = {
    "transducer": {"hidden_size": 8},
    "rnn": {"hidden_size": 8},
    "transformer": {"attention_heads": 2, "linear_units": 16, "num_blocks": 1},
}
CONVOLUTIONAL = {**DECODERS["transformer"], "conv_wshare": 2, "conv_kernel_length": [3]}


def read_tables():
    """Return the rows of each table by the option that its first column holds, without quotes."""
    tables = {}
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        if cells and cells[1] == "support" or cells and cells[0] == "`input_layer`":
            rows = tables.setdefault(cells[0].strip("`"), {})
        elif cells and not cells[0].startswith("---"):
            rows[cells[0].strip("`")] = cells[1:]
    return tables


TABLES = read_tables()
BUILT = {
    section: [option for option, cells in rows.items() if cells[0] == "built"]
    for section, rows in TABLES.items()
}
LAYERS = [
    (layer, encoder)
    for layer, (encoders, _) in TABLES["input_layer"].items()
    for encoder in (BUILT["encoder"] if encoders == "all" else re.findall(r"`(\w+)`", encoders))
]


def slow_but(first, names):
    """Mark all cases slow but one."""
    return [pytest.param(name, marks=[] if name == first else pytest.mark.slow) for name in names]


def describe(section, option):
    """Say how an option is supported, as the tables do."""
    if option in CLASSES[section]:
        return "built"
    if option in REFUSED.get(section, {}):
        return f"refused: {REFUSED[section][option]}"
    return f"with `--trust-config` and `pip install {UNTRUSTED[section][option]}`"


@pytest.mark.parametrize("section", [name for name in CLASSES if name != "specaug"])
def test_the_table_of_a_section_is_what_the_code_builds_and_refuses(section):
    options = [*CLASSES[section], *UNTRUSTED.get(section, {}), *REFUSED.get(section, {})]
    found = {option: cells[0] for option, cells in TABLES[section].items()}
    assert found == {option: describe(section, option) for option in options}


@pytest.mark.parametrize("name", slow_but("conformer", BUILT["encoder"]))
def test_adapters_act_in_an_encoder_and_its_rows_are_equal_as_the_table_says(
    name, new_base, new_stack, new_batch, encode
):
    _, adapters, lengths = TABLES["encoder"][name]
    base = new_base(encoder=name, encoder_conf=ENCODERS[name])
    assert padding.mixes_lengths(base.model) == (lengths == "yes")
    batch = new_batch((0, 1, 2), length=None if lengths == "yes" else 90)
    for kind in available():
        stack = new_stack(base, kind, is_trained=True)
        if kind in adapters:  # all but this one
            with pytest.raises(ConfigError):
                AdaptedModel(base, stack)
            continue
        together = encode(base, stack, batch)
        for row in range(3):
            (alone,) = encode(base, stack, batch.rows([row]))
            torch.testing.assert_close(together[row, : len(alone)], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("layer", "encoder"), LAYERS)
def test_rows_are_equal_behind_each_input_layer(layer, encoder, new_base, new_batch, encode):
    base = new_base(encoder=encoder, encoder_conf={**ENCODERS[encoder], "input_layer": layer})
    assert str(base.subsampling) == TABLES["input_layer"][layer][1]
    batch = new_batch((0, 1, 2), length=None if padding.mixes_lengths(base.model) else 90)
    together = encode(base, None, batch)
    for row in range(3):
        (alone,) = encode(base, None, batch.rows([row]))
        torch.testing.assert_close(together[row, : len(alone)], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", slow_but("transducer", BUILT["decoder"]))
def test_a_decoder_is_trained_and_searched_as_the_table_says(name, new_base, new_stack, new_batch):
    options = DECODERS.get(name, CONVOLUTIONAL)
    base = new_base(decoder=name, decoder_conf=options, model_conf={"ctc_weight": 0.3})
    adapted = AdaptedModel(base, new_stack(base, is_trained=True)).train()
    batch = new_batch((0, 1, 2))
    with adapted.hooked():
        loss = adapted.loss(batch)
        loss.backward()
        rows = [adapted.loss(batch.rows([row])).detach() for row in range(3)]
    torch.testing.assert_close(loss.detach(), torch.stack(rows).mean(), atol=1e-4, rtol=1e-4)
    assert all(parameter.grad.any() for parameter in adapted.adapters.parameters())
    assert new_searcher(base, SearchRequest()).options.kind == TABLES["decoder"][name][1]


def test_frames_that_a_batch_drops_are_refused(model_config):
    conf = {**CONFORMER, "interctc_layer_idx": [1], "ctc_trim": True}
    with pytest.raises(ConfigError, match=r"encoder_conf\.ctc_trim: it drops frames between blocks"):
        build.build(model_config(encoder_conf=conf))


def test_tokens_in_place_of_speech_are_refused(new_base, new_batch, encode):
    base = new_base(encoder_conf={**CONFORMER, "input_layer": "embed"})
    with pytest.raises(RuntimeError, match="indices"):
        encode(base, None, new_batch((0,)))


@pytest.mark.parametrize(("section", "name"), [(s, n) for s in REFUSED for n in REFUSED[s]])
def test_what_the_tables_refuse_is_refused(model_config, section, name):
    with pytest.raises(ConfigError, match=re.escape(f"{section}: {name}: {REFUSED[section][name]}")):
        build.build(model_config(**{section: name, f"{section}_conf": {}}))
