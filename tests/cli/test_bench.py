"""`adaptkit bench` as a user runs it."""

import pytest

from adaptkit import config

pytestmark = pytest.mark.slow

WORDS = ["bench", "train", "--utterances", 2, "--sec", 1, "--steps", 1, "--speakers", 2]
SIZES = {"output_size": 16, "attention_heads": 2, "linear_units": 24, "num_blocks": 2}
MODEL = {"input_size": 80, "encoder": "conformer", "encoder_conf": SIZES, "model_conf": {"ctc_weight": 1.0}}


def test_bench_prints_both_steps_and_their_ratio(adaptkit, base_dir):
    done = adaptkit(*WORDS, "--base", base_dir, "--set", "bottleneck=4")

    rows = [line.split() for line in done.stdout.splitlines()]
    assert done.exit_code == 0, done.stderr
    assert [row[0] for row in rows[1:]] == ["fine-tuning", "forward", "backward", "residual"]
    ratio = float(rows[4][2]) / float(rows[1][2])
    assert abs(float(rows[4][3]) - ratio) < 0.3  # of rounded milliseconds


def test_bench_times_several_kinds_on_a_model_with_random_weights(adaptkit, tmp_path):
    config.write_yaml(tmp_path / "model.yaml", MODEL)
    kinds = ["--adapter", "residual", "--adapter", "hra"]
    done = adaptkit(*WORDS, "--model", tmp_path / "model.yaml", *kinds)

    assert done.exit_code == 0, done.stderr
    first = [line.split()[0] for line in done.stdout.splitlines()[1:]]
    assert first == ["fine-tuning", "forward", "backward", "residual", "hra"]


def test_bench_of_the_upper_half_adds_a_row(adaptkit, base_dir):
    done = adaptkit(*WORDS, "--base", base_dir, "--upper-half")

    assert done.exit_code == 0, done.stderr
    assert "residual, blocks 1" in done.stdout


def test_bench_with_peers_needs_lora(adaptkit, base_dir):
    done = adaptkit(*WORDS, "--base", base_dir, "--peers", "--adapter", "hra")

    assert done.exit_code == 2
    assert "add --adapter lora" in done.stderr


def test_bench_needs_a_base_or_a_model(adaptkit, base_dir):
    assert adaptkit(*WORDS).exit_code == 2
    assert adaptkit(*WORDS, "--base", base_dir, "--model", base_dir).exit_code == 2


def test_bench_refuses_a_misspelt_option_of_the_adapter(adaptkit, base_dir):
    done = adaptkit(*WORDS, "--base", base_dir, "--set", "bottelneck=4")

    assert "did you mean 'bottleneck'?" in done.stderr


def test_bench_of_augmentation_prints_both_ratios(adaptkit, tmp_path):
    config.write_yaml(tmp_path / "model.yaml", MODEL)
    config.write_yaml(tmp_path / "light.yaml", {"spec": {"time_masks": 2, "time_width": 20, "time_warp": 5}})
    sizes = ["--utterances", 3, "--min-sec", 1, "--max-sec", 2, "--rounds", 1]
    files = ["--policy", tmp_path / "light.yaml", "--model", tmp_path / "model.yaml"]
    done = adaptkit("bench", "augment", *files, *sizes)

    assert done.exit_code == 0, done.stderr
    ours, espnet, step = (line.split() for line in done.stdout.splitlines()[1:])
    assert (ours[0], ours[2], espnet[0], step[:2]) == ("adaptkit", "1.00", "ESPnet", ["training", "step"])
    assert float(ours[1]) > 0
    assert step[4:6] == ["100.00", "%"]


def test_bench_of_augmentation_without_a_model_has_no_step(adaptkit, tmp_path):
    config.write_yaml(tmp_path / "light.yaml", {"spec": {"time_masks": 2, "time_width": 20}})
    done = adaptkit("bench", "augment", "--policy", tmp_path / "light.yaml", "--rounds", 1, "--max-sec", 3)

    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == ["adaptkit", "ESPnet"]


def test_bench_of_augmentation_refuses_a_policy_without_masks(adaptkit, tmp_path):
    config.write_yaml(tmp_path / "plain.yaml", {"spec": None})
    done = adaptkit("bench", "augment", "--policy", tmp_path / "plain.yaml")

    assert done.exit_code == 2
    assert "has no SpecAugment" in done.stderr
