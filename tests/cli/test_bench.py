"""`adaptkit bench` as a user runs it."""

from typer.testing import CliRunner

from adaptkit.cli import bench

WORDS = ["train", "--utterances", "2", "--seconds", "1", "--steps", "1", "--tasks", "2"]


def test_bench_prints_both_steps_and_their_ratio(base_dir):
    done = CliRunner().invoke(bench.app, [*WORDS, "--base", str(base_dir), "--set", "bottleneck=4"])

    rows = [line.split() for line in done.stdout.splitlines()]
    assert done.exit_code == 0, done.output
    assert [row[0] for row in rows[1:]] == ["full", "residual", "ratio"]
    ratio = float(rows[2][2]) / float(rows[1][2])
    assert abs(float(rows[3][1]) - ratio) < 0.3  # of rounded milliseconds


def test_bench_refuses_a_misspelt_option_of_the_adapter(base_dir):
    done = CliRunner().invoke(bench.app, [*WORDS, "--base", str(base_dir), "--set", "bottelneck=4"])

    assert "did you mean 'bottleneck'?" in str(done.exception)
