"""`adaptkit bench` as a user runs it."""

from typer.testing import CliRunner

from adaptkit import config
from adaptkit.cli import bench

WORDS = ["train", "--utterances", "2", "--seconds", "1", "--steps", "1", "--tasks", "2"]
SIZES = {"output_size": 16, "attention_heads": 2, "linear_units": 24, "num_blocks": 2}
MODEL = {"input_size": 80, "encoder": "conformer", "encoder_conf": SIZES, "model_conf": {"ctc_weight": 1.0}}


def test_bench_prints_both_steps_and_their_ratio(base_dir):
    done = CliRunner().invoke(bench.app, [*WORDS, "--base", str(base_dir), "--set", "bottleneck=4"])

    rows = [line.split() for line in done.stdout.splitlines()]
    assert done.exit_code == 0, done.output
    assert [row[0] for row in rows[1:]] == ["fine-tuning", "residual"]
    ratio = float(rows[2][2]) / float(rows[1][2])
    assert abs(float(rows[2][3]) - ratio) < 0.3  # of rounded milliseconds


def test_bench_times_several_kinds_on_a_model_with_random_weights(tmp_path):
    config.write_yaml(tmp_path / "model.yaml", MODEL)
    kinds = ["--adapter", "residual", "--adapter", "hra"]
    done = CliRunner().invoke(bench.app, [*WORDS, "--model", str(tmp_path / "model.yaml"), *kinds])

    assert done.exit_code == 0, done.output
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == ["fine-tuning", "residual", "hra"]


def test_bench_needs_a_base_or_a_model(base_dir):
    assert CliRunner().invoke(bench.app, WORDS).exit_code == 2
    both = [*WORDS, "--base", str(base_dir), "--model", str(base_dir)]
    assert CliRunner().invoke(bench.app, both).exit_code == 2


def test_bench_refuses_a_misspelt_option_of_the_adapter(base_dir):
    done = CliRunner().invoke(bench.app, [*WORDS, "--base", str(base_dir), "--set", "bottelneck=4"])

    assert "did you mean 'bottleneck'?" in str(done.exception)


def test_bench_of_augmentation_prints_both_ratios(tmp_path):
    config.write_yaml(tmp_path / "model.yaml", MODEL)
    config.write_yaml(tmp_path / "light.yaml", {"spec": {"time_masks": 2, "time_width": 20, "time_warp": 5}})
    sizes = ["--utterances", "3", "--seconds", "1", "--longest", "2", "--steps", "1"]
    words = ["--policy", str(tmp_path / "light.yaml"), "--model", str(tmp_path / "model.yaml"), *sizes]
    done = CliRunner().invoke(bench.app, ["augment", *words])

    assert done.exit_code == 0, done.output
    ours, espnet, step = (line.split() for line in done.stdout.splitlines()[1:])
    assert (ours[0], ours[2], espnet[0], step[:2]) == ("adaptkit", "1.00", "ESPnet", ["training", "step"])
    assert float(ours[1]) > 0
    assert step[4:6] == ["100.00", "%"]


def test_bench_of_augmentation_without_a_model_has_no_step(tmp_path):
    config.write_yaml(tmp_path / "light.yaml", {"spec": {"time_masks": 2, "time_width": 20}})
    words = ["augment", "--policy", str(tmp_path / "light.yaml"), "--steps", "1", "--longest", "3"]
    done = CliRunner().invoke(bench.app, words)

    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == ["adaptkit", "ESPnet"]


def test_bench_of_augmentation_refuses_a_policy_without_masks(tmp_path):
    config.write_yaml(tmp_path / "plain.yaml", {"spec": None})
    done = CliRunner().invoke(bench.app, ["augment", "--policy", str(tmp_path / "plain.yaml")])

    assert done.exit_code == 2
    assert "has no SpecAugment" in done.output
