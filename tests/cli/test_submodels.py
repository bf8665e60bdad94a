"""`adaptkit submodels` as a user runs it."""

import json
import shutil

import pytest

from adaptkit import experiment
from adaptkit.base import checkpoint as base_checkpoint
from adaptkit.errors import CheckpointError, DataError
from adaptkit.kaldi.tables import read_table, write_table
from adaptkit.model import checkpoint
from adaptkit.scoring import files as score_files

SPEAKERS = ("spk1", "spk10", "spk2")
SPEECH = {"fs": 8000, "n_fft": 256, "hop_length": 80, "n_mels": 20}


@pytest.fixture
def folder(adaptkit, new_exp, tmp_path):
    """A folder of Submodels, which a test may spoil."""
    done = adaptkit("submodels", "export", new_exp(bottleneck=4), tmp_path / "submodels")
    assert done.exit_code == 0, done.stderr
    return tmp_path / "submodels"


@pytest.fixture
def damaged(folder):
    """A folder of which spk10 cannot be read."""
    (folder / "spk10.safetensors").write_bytes(b"no model")
    return folder


def test_export_writes_a_file_for_each_task(folder):
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(["+shared.safetensors", *(f"{task}.safetensors" for task in SPEAKERS)])


def test_export_writes_named_speakers_alone(adaptkit, new_exp, tmp_path):
    names = ["--speaker", "spk2", "--speaker", "spk1"]
    done = adaptkit("submodels", "export", new_exp(bottleneck=4), tmp_path / "some", *names)
    assert done.stdout == f"{tmp_path}/some\n"
    assert sorted(path.name for path in (tmp_path / "some").glob("spk*")) == [
        "spk1.safetensors",
        "spk2.safetensors",
    ]


def test_export_takes_a_base_that_moved(adaptkit, new_exp, base_dir, tmp_path):
    exp = new_exp(bottleneck=4)
    (tmp_path / "moved").symlink_to(base_dir)
    text = (exp / "config.yaml").read_text()
    (exp / "config.yaml").write_text(text.replace(str(base_dir), str(tmp_path / "nowhere")))
    done = adaptkit("submodels", "export", exp, tmp_path / "out")
    assert isinstance(done.error, CheckpointError)
    done = adaptkit("submodels", "export", exp, tmp_path / "out", "--base", tmp_path / "moved")
    assert done.exit_code == 0, done.stderr


def test_enroll_and_cross_take_a_base_that_moved(adaptkit, new_exp, base_dir, corpus, tmp_path):
    exp, moved = new_exp(tasks=("spk1", "spk10"), bottleneck=4), tmp_path / "moved"
    moved.symlink_to(base_dir)
    text = (exp / "config.yaml").read_text()
    (exp / "config.yaml").write_text(text.replace(str(base_dir), str(tmp_path / "nowhere")))
    out = tmp_path / "more"
    named = ["--speaker", "spk2", "--out", out]
    enrolling = ["submodels", "enroll", exp, "--data", corpus / "dump/train", *named]
    crossing = ["submodels", "cross", exp, corpus / "dump/valid", "--out", tmp_path / "matrix"]
    for words in (enrolling, crossing):
        assert isinstance(adaptkit(*words).error, CheckpointError)
        done = adaptkit(*words, "--base", moved)
        assert done.exit_code == 0, done.stderr
    assert experiment.load(out / "config.yaml").base.dir == moved
    assert (tmp_path / "matrix/summary.json").exists()


@pytest.fixture
def cross(adaptkit, new_exp, new_base, tmp_path):
    """Cross a set on a base that reads speech; give the table and the summary."""
    base = new_base(seed=3, input_size=None, frontend="default", frontend_conf=SPEECH, adaptkit=None)
    base_checkpoint.save(tmp_path / "base", base.config, base.model.state_dict())
    words = ["submodels", "cross", new_exp(base=base, bottleneck=4), "--base", tmp_path / "base", "--out"]

    def make(out, *more):
        done = adaptkit(*words, tmp_path / out, *more)
        if done.error:
            raise done.error
        return tuple((tmp_path / out / name).read_text() for name in ("matrix.tsv", "summary.json"))

    return make


@pytest.fixture
def piped(corpus, tmp_path):
    """The validation set with a command for each recording, which notes in the file `ran` that it ran."""
    data = shutil.copytree(corpus / "dump/valid", tmp_path / "valid")
    recordings = read_table(data / "wav.scp").items()
    write_table(data / "wav.scp", {n: f"echo {n} >> {tmp_path}/ran; cat {path} |" for n, path in recordings})
    return data


def test_cross_refuses_commands_that_are_not_allowed(cross, piped, tmp_path):
    with pytest.raises(DataError, match=r"wav \|: a shell command; allow it with --allow-pipes if you trust"):
        cross("out", piped)
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_cross_counts_the_errors_of_allowed_commands_as_of_files(cross, piped, corpus, tmp_path):
    commands = read_table(piped / "wav.scp")
    of_files = cross("files", corpus / "dump/valid")
    assert cross("commands", piped, "--allow-pipes") == of_files
    assert sorted((tmp_path / "ran").read_text().split()) == sorted(commands)
    write_table(piped / "wav.scp", dict(zip(commands, reversed(commands.values()), strict=True)))
    (piped / "utt2dur").unlink()  # of which the swapped recordings are not
    assert cross("others", piped, "--allow-pipes") != of_files  # the speech matters


def test_what_is_packed_is_decoded_scored_and_reported(adaptkit, folder, base_dir, corpus, tmp_path):
    data, out = corpus / "dump/valid", tmp_path / "packed"
    assert adaptkit("submodels", "pack", folder, out, "--base", base_dir).stdout == f"{out}\n"
    assert adaptkit("decode", out, data).exit_code == 0
    assert adaptkit("score", data, out / "decode_valid").exit_code == 0
    done = adaptkit("report", out, "--test-set", "valid")
    assert done.exit_code == 0, done.stderr
    rate = score_files.read(out / "decode_valid/score.json").total.rate
    assert any("packed" in line and f"{rate:.2f}" in line for line in done.stdout.splitlines())


def test_pack_refuses_a_problem_with_its_reason(adaptkit, damaged, base_dir, tmp_path):
    done = adaptkit("submodels", "pack", damaged, tmp_path / "packed", "--base", base_dir)
    assert isinstance(done.error, CheckpointError)
    assert "spk10.safetensors: damaged or truncated (8 bytes)" in done.stderr
    assert not (tmp_path / "packed").exists()


def test_pack_says_what_it_leaves_out(adaptkit, damaged, base_dir, tmp_path, caplog):
    caplog.set_level("INFO")
    words = ["submodels", "pack", damaged, tmp_path / "packed", "--base", base_dir]
    done = adaptkit(*words, "--skip-problems")
    assert done.exit_code == 0, done.stderr
    assert checkpoint.load(tmp_path / "packed/adapter.safetensors").tasks == ("spk1", "spk2")
    assert "spk10.safetensors: left out: damaged or truncated" in caplog.text
    assert "2 Submodels packed, 1 left out" in caplog.text


def test_list_has_a_line_of_each_speaker(adaptkit, damaged, base_dir, caplog):
    caplog.set_level("INFO")
    lines = adaptkit("submodels", "list", damaged, "--base", base_dir).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["speaker", *SPEAKERS]
    assert "damaged or truncated" in lines[2]
    assert "3 Submodels of " in caplog.text
    assert "1 with a problem" in caplog.text


def test_list_as_json_says_all_there_is(adaptkit, damaged, base):
    sound, broken, _ = json.loads(adaptkit("submodels", "list", damaged, "--format", "json").stdout)
    assert sound == {
        "path": str(damaged / "spk1.safetensors"),
        "task": "spk1",
        "kind": "residual",
        "num_parameters": 2 * (2 * 16 * 4 + 4 + 16),
        "num_bytes": (damaged / "spk1.safetensors").stat().st_size,
        "base_fingerprint": base.fingerprint,
        "problem": "",
        "unimproved": False,
    }
    assert (broken["task"], broken["num_bytes"]) == ("spk10", 8)
    assert broken["problem"].startswith("damaged or truncated")


def test_a_shared_submodel_is_told_of(adaptkit, new_exp, base_dir, tmp_path, caplog):
    caplog.set_level("INFO")
    exp = new_exp(bottleneck=4, tasks=("spk1", "shared"))
    done = adaptkit("submodels", "export", exp, tmp_path / "out", "--speaker", "ann")
    assert done.stderr.endswith("has no speaker 'ann'; 'shared' serves speakers without one\n")
    adaptkit("submodels", "export", exp, tmp_path / "out")
    adaptkit("submodels", "list", tmp_path / "out")
    adaptkit("submodels", "pack", tmp_path / "out", tmp_path / "packed", "--base", base_dir)
    assert "0 with a problem; 'shared' serves speakers without one" in caplog.text
    assert "2 Submodels packed, 0 left out; 'shared' serves speakers without one" in caplog.text
