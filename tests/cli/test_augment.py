"""`adaptkit augment show` as a user runs it."""

import logging
from dataclasses import replace

import pytest

from adaptkit import config
from adaptkit.augment.policy import read_policy
from adaptkit.errors import AdaptkitError
from adaptkit.kaldi import datadir


@pytest.fixture
def show(adaptkit):
    """Run `adaptkit augment show`."""
    return lambda *words: adaptkit("augment", "show", *words)


@pytest.fixture
def policy(tmp_path):
    """A policy that fits the tiny corpus: 20 bins and utterances of half a second."""
    spec = {"freq_masks": 1, "freq_width": 8, "time_masks": 2, "time_width": 10, "time_warp": 5}
    config.write_yaml(tmp_path / "light.yaml", {"spec": spec})
    return tmp_path / "light.yaml"


@pytest.fixture
def dump(corpus):
    return corpus / "dump" / "train"


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_show_prints_words_and_a_table(show, policy, dump):
    done = show(policy, "--data", dump)

    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith(f"light on {dump}\n  time warp: up to 5 frames")
    row = next(line.split() for line in done.stdout.splitlines() if line.startswith("all"))
    assert row[1] == "18"
    assert abs(float(row[5]) - float(row[6])) < 2  # expected and measured, in percent


def test_show_writes_policy_table_and_picture_and_the_same_again(show, policy, dump, tmp_path):
    show(policy, "--data", dump, "--out", tmp_path / "out")
    first = contents(tmp_path / "out")
    show(policy, "--data", dump, "--out", tmp_path / "out")

    assert sorted(first) == ["light/policy.yaml", "light/table.md", "policies.png"]
    assert contents(tmp_path / "out") == first
    assert read_policy(tmp_path / "out/light/policy.yaml") == read_policy(policy)


def test_show_takes_an_experiment(show, policy, dump, tmp_path):
    own = {"apply_time_warp": False, "apply_time_mask": False, "freq_mask_width_range": [0, 9]}
    config.write_yaml(tmp_path / "model.yaml", {"specaug": "specaug", "specaug_conf": own})
    base = {"dir": "exp/base", "model": str(tmp_path / "model.yaml")}
    config.write_yaml(tmp_path / "x.yaml", {"name": "tiny", "base": base, "augment": str(policy)})

    done = show(tmp_path / "x.yaml", "--data", dump, "--out", tmp_path / "out")

    assert done.exit_code == 0, done.stderr
    assert {file.parent.name for file in (tmp_path / "out").rglob("policy.yaml")} == {"base", "tiny"}


def test_show_of_an_experiment_without_augmentation_says_so(show, dump, tmp_path):
    config.write_yaml(tmp_path / "x.yaml", {"name": "tiny", "base": {"dir": "exp/base"}})

    done = show(tmp_path / "x.yaml", "--data", dump, "--out", tmp_path / "out")

    assert (done.exit_code, done.stdout) == (0, "no augmentation\n")


def test_show_reads_recordings_where_there_are_no_features(show, policy, corpus, tmp_path):
    done = show(policy, "--data", corpus / "data" / "train", "--out", tmp_path / "out")

    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "out/policies.png").stat().st_size > 10000


def test_show_runs_the_commands_of_a_corpus_if_allowed(show, policy, corpus, tmp_path):
    data = datadir.read(corpus / "data" / "train")
    commands = {name: f"cat {location} |" for name, location in data.recordings.items()}
    datadir.write(replace(data, path=tmp_path / "piped", recordings=commands, duration_sec=None))
    words = (policy, "--data", tmp_path / "piped", "--out", tmp_path / "out")
    assert "a shell command; allow it with --allow-pipes" in show(*words).stderr
    assert show(*words, "--allow-pipes").exit_code == 0


def test_show_changes_options_and_warns(show, policy, dump, caplog):
    with caplog.at_level(logging.WARNING):
        done = show(policy, "--data", dump, "--set", "spec.time_warp=500")

    assert done.exit_code == 0, done.stderr
    assert "18 of 18 utterances" in caplog.text
    assert "are not warped" in caplog.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plan"], "did you mean 'plain'"),
        (["plain", "--data", "nowhere"], "nowhere: no such data directory"),
        (["wide.yaml"], "freq_width [0, 21] is wider than features of 20 bins"),
        (["missing.yaml"], "missing.yaml: no such file"),
    ],
)
def test_show_says_what_cannot_be_shown(show, words, message, dump, tmp_path, monkeypatch):
    config.write_yaml(tmp_path / "conf/augment/plain.yaml", {"spec": None})
    config.write_yaml(tmp_path / "wide.yaml", {"spec": {"freq_masks": 1, "freq_width": 21}})
    monkeypatch.chdir(tmp_path)

    done = show("--data", dump, *words)

    assert isinstance(done.error, AdaptkitError)
    assert message in done.stderr
