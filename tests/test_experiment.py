"""The experiment's yaml."""

import pytest

from adaptkit import config, experiment
from adaptkit.adapters.kinds import residual
from adaptkit.errors import ConfigError
from adaptkit.training_options import Training

CONTENT = {
    "name": "tiny",
    "base": {"dir": "exp/base"},
    "data": {"train": "dump/train", "valid": "dump/valid"},
    "adapters": [{"kind": "residual", "bottleneck": 8}, {"kind": "residual"}],
    "train": {"lr": 1e-5},
}


@pytest.fixture
def path(tmp_path):
    """The yaml of an experiment."""
    config.write_yaml(tmp_path / "tiny.yaml", CONTENT)
    return tmp_path / "tiny.yaml"


def refused(path, *overrides):
    """Return the message with which an experiment is refused."""
    with pytest.raises(ConfigError) as caught:
        experiment.load(path, overrides)
    return str(caught.value)


def test_a_saved_experiment_is_loaded_to_itself_with_every_option_of_its_adapters(path, tmp_path):
    given = experiment.load(path)
    experiment.save(given, tmp_path / "saved.yaml")
    assert experiment.load(tmp_path / "saved.yaml") == given
    assert "bottleneck: 64" in (tmp_path / "saved.yaml").read_text()  # a default, written out


def test_each_adapter_is_checked_by_its_own_kind(path):
    loaded = experiment.load(path)
    assert loaded.adapters == (residual.Config(bottleneck=8), residual.Config())


def test_an_option_of_an_adapter_can_be_set(path):
    assert experiment.load(path, ["adapters.0.bottleneck=32"]).adapters[0].bottleneck == 32


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("adapters.0.bottelneck=3", "adapters.0.bottelneck: unknown key; did you mean 'bottleneck'?"),
        ("adapters.1.bottleneck=0", "adapters.1.bottleneck: Input should be greater than 0 (seen: 0)"),
        (
            "adapters.1.kind=residul",
            "adapters.1: there is no adapter type 'residul'; did you mean 'residual'?",
        ),
        ("adapters=[residual]", "adapters.0: expected 'kind: <name>', one of"),
        ("train.schedule=cosin", "train.schedule: Input should be 'constant', 'linear', 'cosine'"),
        ("train.max_epoch=3", "train.max_epoch: unknown key; did you mean 'max_epochs'?"),
        (
            "name=a/b",
            "name: expected letters, digits and . _ + - since it names a folder (seen: 'a/b')",
        ),
        ("data.train=", "data.train: "),
    ],
)
def test_a_mistake_is_refused_with_its_full_key(path, word, message):
    assert message in refused(path, word)


def test_mistakes_in_an_adapter_and_elsewhere_come_together(path):
    message = refused(path, "adapters.0.bottleneck=none", "train.lr=-1")
    assert "2 problems" in message


def test_defaults_train_the_adapters_of_a_base_that_is_there(path):
    loaded = experiment.load(path)
    assert loaded.base.model is None
    assert (loaded.train.lr, loaded.train.average, loaded.train.precision) == (1e-5, 1, "float32")


def test_other_adapters_name_the_experiment_and_keep_the_rest(path, tmp_path):
    other = tmp_path / "small.yaml"
    config.write_yaml(
        other, {"adapters": [{"kind": "residual", "bottleneck": 2}], "train": {"max_epochs": 3}}
    )
    loaded = experiment.load(path, ["train.seed=4"], adapter=str(other))
    assert (loaded.name, loaded.adapters) == ("small", (residual.Config(bottleneck=2),))
    assert (loaded.train.lr, loaded.train.max_epochs, loaded.train.seed) == (1e-5, 3, 4)
    assert loaded.base == experiment.load(path).base


def test_the_name_of_an_experiment_stands_for_its_own_adapters_and_any_other_for_a_yaml(tmp_path):
    rows = {
        "residual": None,
        "small": {"adapter": "residual", "set": {"adapters.0.blocks": [0]}},
        "hra": None,
    }
    own = {
        **CONTENT,
        "name": "residual",
        "adapters": [{"kind": "residual", "bottleneck": 8}],
        "compare": rows,
    }
    path = tmp_path / "own.yaml"
    config.write_yaml(path, own)
    (small,) = experiment.load(path, adapter="small").adapters
    assert experiment.load(path, adapter="residual") == experiment.load(path)
    assert small == residual.Config(bottleneck=8, blocks=(0,))
    assert (
        experiment.load(path, adapter="hra").adapters[0].controller_width == 256
    )  # of conf/adapters/hra.yaml
    config.write_yaml(path, {**own, "name": "other", "compare": None})
    assert experiment.load(path, adapter="other") == experiment.load(path)
    assert experiment.load(path, adapter="residual").adapters == (residual.Config(bottleneck=64),)


def test_a_row_with_the_name_of_the_experiment_starts_from_no_other_adapters(path):
    config.write_yaml(path, {**CONTENT, "compare": {"tiny": {"adapter": "hra"}}})
    with pytest.raises(
        ConfigError, match=r"compare\.tiny: adapter: .* own 'adapters:', not from 'hra'; drop"
    ):
        experiment.load(path)


def test_a_yaml_of_adapters_holds_nothing_else(path, tmp_path):
    config.write_yaml(tmp_path / "other.yaml", {"adapters": [], "base": {"dir": "exp/other"}})
    with pytest.raises(ConfigError, match="expected 'adapters' and optionally 'train', found adapters, base"):
        experiment.load(path, adapter=str(tmp_path / "other.yaml"))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("train.lr=2024-13-45", "train.lr: Input should be a valid number"),
        ("train.lr=1:30:00", "train.lr: Input should be a valid number"),
        ("train.lr=.inf", "train.lr: Input should be"),
        ("train.lr=.nan", "train.lr: Input should be"),
        ("train.lr=true", "train.lr: Input should be a valid number (seen: True)"),
        ("train.lr='1e-3'", "train.lr: Input should be a valid number (seen: '1e-3')"),
        ("train.lr=!!int abc", "--set train.lr=!!int abc: invalid yaml: the tag tag:yaml.org,2002:int"),
        (f"train.lr={'[' * 600}", "invalid yaml: nested more than 50 levels"),
        (f"train.lr={'9' * 5000}", "invalid yaml: "),
        ("train.lr=&a [*a]", "invalid yaml: more than 1000000 values"),
        (f"{'a.' * 600}b=1", "more than 50 levels"),
        ("adapters.²=1", "'²' is not an index of a list of 2"),
        ("adapters.0.kind=5", "adapters.0: expected 'kind: <name>', one of"),
        ("adapters.0.bottleneck=010", "adapters.0.bottleneck: Input should be a valid integer"),
        (
            f"adapters.0.bottleneck={10**26}",
            "adapters.0.bottleneck: Input should be less than or equal to 65536",
        ),
        (f"train.seed={2**64}", "train.seed: Input should be less than or equal to 9223372036854775807"),
        (
            "name=2380",
            "name: expected text; put it in quotes, which yaml needs around a number or date: name='2380'",
        ),
        ("train.max_epochs=true", "train.max_epochs: Input should be a valid integer (seen: True)"),
        ("train.num_workers=1000000", "train.num_workers: Input should be less than or equal to 256"),
        ("train.temperature=1e-9", "train.temperature: Input should be greater than or equal to 0.1"),
        (
            f"augment={{spec: {{time_warp: {10**20}}}}}",
            "augment.spec.time_warp: Input should be less than or equal to 10000",
        ),
        (f"name={'a' * 300}", "name: String should have at most 100 characters"),
        ('base.dir="\\0"', "base.dir: expected a path without NUL characters"),
        (f"base.dir={'a' * 300}", "base.dir: expected a path without NUL characters"),
        (f"augment={'a' * 300}", "no conf/augment/aaa"),
    ],
)
def test_a_value_that_is_no_sane_number_or_path_is_refused(path, word, message):
    assert message in refused(path, word)


@pytest.mark.parametrize(
    "content", [{5: 1}, {"adapters": [], "train": [1]}, {"adapters": 5}, {"adapters": [5]}]
)
def test_a_damaged_yaml_of_adapters_is_refused(path, tmp_path, content):
    config.write_yaml(tmp_path / "other.yaml", content)
    with pytest.raises(ConfigError, match=r"other.yaml: |adapters"):
        experiment.load(path, adapter=str(tmp_path / "other.yaml"))


def test_a_yaml_of_adapters_may_be_named_in_any_script(path, tmp_path):
    config.write_yaml(tmp_path / "a𐐷.yaml", {"adapters": [{"kind": "residual"}]})
    assert experiment.load(path, ["base.name=😀"], adapter=str(tmp_path / "a𐐷.yaml")).name == "a𐐷"


def test_a_whole_number_may_have_an_exponent(path):
    assert experiment.load(path, ["train.batch_frames=12e3"]).train.batch_frames == 12000


@pytest.mark.parametrize("word", ["task_utterances=4", "temperature=5", "shared=true", "start=exp/shared"])
def test_options_of_adapters_are_refused_for_a_base_model(path, word):
    assert f"base.train.{word.partition('=')[0]}: unknown key" in refused(path, f"base.train.{word}")


def test_defaults_that_earlier_versions_saved_for_a_base_model_are_dropped(path):
    saved = ["base.train.task_utterances=8", "base.train.temperature=1.0", "base.train.lr=0.5"]
    assert experiment.load(path, saved).base.train == Training(lr=0.5)
