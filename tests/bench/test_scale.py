"""The benchmark of many speakers: what it counts, and that its figures are those of files and plans."""

import json

import pytest

from adaptkit import config
from adaptkit.adapters import api
from adaptkit.base import create
from adaptkit.bench import scale
from adaptkit.features.archive import load_feats

pytestmark = pytest.mark.slow

SIZES = {"output_size": 16, "attention_heads": 2, "linear_units": 24, "num_blocks": 2}
MODEL = {"input_size": 80, "encoder": "conformer", "encoder_conf": SIZES, "model_conf": {"ctc_weight": 1.0}}
RESIDUAL = {"kind": "residual", "bottleneck": 4}
PER_SPEAKER = 2 * (2 * 16 * 4 + 4 + 16)  # L (2DR + R + D)


@pytest.fixture
def model(tmp_path):
    """The yaml of a tiny model."""
    config.write_yaml(tmp_path / "model.yaml", MODEL)
    return tmp_path / "model.yaml"


@pytest.fixture
def work(model):
    """A workload of few steps."""
    entry = api.read_config(RESIDUAL)
    return scale.Workload(model, entry, num_utterances=2, num_steps=2, num_validated=2, batch_frames=2000)


def test_the_costs_of_a_number_of_speakers_are_measured(work):
    cost = scale.measure(work, 5, "cpu")
    assert (cost.num_speakers, cost.params_per_speaker) == (5, PER_SPEAKER)
    assert min(cost.plan_seconds, cost.step_ms, cost.valid_ms, cost.pause_seconds) > 0
    assert cost.pause_seconds <= cost.save_seconds
    weights_mb = 4 * 5 * PER_SPEAKER / 2**20
    assert weights_mb < cost.adapter_mb < cost.state_mb
    assert 4 * weights_mb < cost.state_mb  # weights, best weights and two moments


def test_utterances_share_the_features_of_a_few_in_an_archive(work, tmp_path):
    base = create.untrained(work.model, 500)
    examples = scale.make_examples(base, tmp_path, 40, 3, (20, 90))
    assert (len(examples), len(examples.data.tasks)) == (120, 40)
    lengths = [len(load_feats(examples.data.feats[u.utt_id])) for u in examples.data.utterances]
    assert lengths == list(examples.lengths)


def test_bench_scale_prints_json_and_draws(adaptkit, model, tmp_path):
    words = ["--speakers", 3, "--model", model, "--utterances", 2, "--steps", 1]
    done = adaptkit("bench", "scale", *words, "--json", "--plot", tmp_path / "scale.svg")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["num_speakers"] == 3
    assert (tmp_path / "scale.svg").read_text().lstrip().startswith("<?xml")


def test_bench_scale_refuses_what_is_no_number_of_speakers(adaptkit):
    done = adaptkit("bench", "scale", "--speakers", "8,many")
    assert done.exit_code == 2
    assert "--speakers 8,many: expected numbers from 1 to 1000000" in done.stderr
