"""Decoding a data directory with a folder of Submodels."""

import json
import shutil
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from adaptkit import experiment
from adaptkit.base import checkpoint as base_checkpoint
from adaptkit.cli.main import app
from adaptkit.decoding.run import DecodeOptions, decode_folder
from adaptkit.errors import AdaptkitError, CheckpointError, ConfigError
from adaptkit.kaldi.tables import read_table, write_table
from adaptkit.records import DecodeRecord, RunRecord
from adaptkit.report import runs
from adaptkit.scoring import files as score_files
from adaptkit.submodels import files
from adaptkit.submodels.files import file_name


@pytest.fixture
def folder(base, new_stack, export, settings, tmp_path):
    """A folder of Submodels, beside the experiment they are from."""
    experiment.save(settings(), tmp_path / "exp/tiny/config.yaml")
    return export(new_stack(base, is_trained=True))


@pytest.fixture
def data(corpus, tmp_path):
    """The validation set with features, in a folder that a test may spoil."""
    return shutil.copytree(corpus / "dump/valid", tmp_path / "valid")


@pytest.fixture
def run(base_dir, folder, data):
    """Decode a base model's folder with Submodels; keywords replace options."""
    options = DecodeOptions(base_dir, data, batch_frames=500, submodels=folder)
    return lambda **changes: decode_folder(replace(options, **changes), device="cpu")


@pytest.mark.parametrize("limit", ["0", "inf"])
def test_memory_that_holds_no_submodel_or_has_no_end_is_refused(adaptkit, base_dir, folder, data, limit):
    done = adaptkit("decode", base_dir, data, "--submodels", folder, "--submodel-mb", limit)
    assert done.exit_code != 0
    assert "--submodel-mb" in done.stderr


def test_a_base_and_submodels_are_decoded_as_the_experiment_they_are_from(run, folder, tmp_path):
    out = run()
    expected = run(exp=tmp_path / "exp/tiny", submodels=None)
    assert (out, expected) == (folder / "decode_valid", tmp_path / "exp/tiny/decode_valid")
    for name in ("text", "utt2score"):
        assert (out / name).read_bytes() == (expected / name).read_bytes()
    assert not DecodeRecord.read(out / "run.json").base_only


def test_an_experiment_tells_the_base_and_its_own_adapters_are_left_out(run, base_dir, tmp_path):
    expected = (run() / "text").read_bytes()
    (tmp_path / "exp/tiny/adapter.safetensors").unlink()
    assert (run(exp=tmp_path / "exp/tiny") / "text").read_bytes() == expected


def test_an_unknown_task_is_refused_or_left_to_the_base(run, folder, data):
    (folder / file_name("spk10")).unlink()
    with pytest.raises(CheckpointError, match=r"not 'spk10'; did you mean 'spk1'\?.*--unknown-speaker base"):
        run()
    assert not (folder / "decode_valid").exists()
    found = read_table(run(unknown_speaker="base") / "utt2score")
    alone = read_table(run(submodels=None, out=data.parent / "alone") / "utt2score")
    assert {utt_id for utt_id in found if found[utt_id] == alone[utt_id]} == {"spk10-00", "spk10-01"}


@pytest.mark.parametrize("unknown", ["error", "base"])
def test_damaged_submodels_of_the_set_are_all_named_before_decoding(run, folder, unknown):
    content = bytearray((folder / file_name("spk1")).read_bytes())
    content[-1] ^= 1  # a weight
    (folder / file_name("spk1")).write_bytes(content)
    (folder / file_name("spk2")).write_bytes(content[:50])
    with pytest.raises(CheckpointError, match=r"spk1\.safetensors: damaged.*\n.*spk2\.safetensors: damaged"):
        run(unknown_speaker=unknown)
    assert not (folder / "decode_valid").exists()


def test_a_damaged_submodel_of_nobody_in_the_set_does_no_harm(run, folder):
    (folder / file_name("spk3")).write_text("no tensors")
    assert len(read_table(run() / "text")) == 6


def test_a_set_of_nothing_but_short_utterances_is_decoded_to_nothing(run, data, forget_records):
    forget_records(data)
    write_table(data / "utt2num_frames", dict.fromkeys(read_table(data / "utt2num_frames"), "3"))
    assert set(read_table(run() / "text").values()) == {""}


def test_submodels_of_another_base_are_refused(run, new_base, tmp_path):
    other = new_base(seed=1)
    base_checkpoint.save(tmp_path / "other", other.config, other.model.state_dict())
    with pytest.raises(CheckpointError, match="Submodels for base model .*; use the folder of the right"):
        run(exp=tmp_path / "other")


def test_a_folder_without_submodels_is_told_with_what_makes_them(run, tmp_path):
    with pytest.raises(AdaptkitError, match="nowhere.*no such file; 'adaptkit submodels export' writes it"):
        run(submodels=tmp_path / "nowhere")


def test_the_base_alone_with_submodels_is_refused(run):
    with pytest.raises(ConfigError, match="--base-only leaves adapters out, but --submodels names some"):
        run(base_only=True)


def test_a_budget_of_nothing_is_refused(run):
    with pytest.raises(
        ConfigError, match="--submodel-mb limits the memory for --submodels, which is missing"
    ):
        run(submodels=None, submodel_mb=1)


def test_there_are_no_more_slots_than_the_set_has_tasks(run, caplog):
    caplog.set_level("INFO")
    run(submodel_mb=64)
    assert "memory for 3 Submodels" in caplog.text


def score(out, data):
    score_files.write(score_files.score_files(data, out, seed=0), out)


def test_a_report_takes_a_folder_of_submodels(run, folder, data, tmp_path):
    score(run(), data)
    score(run(submodels=None, out=tmp_path / "none/decode_valid"), data)
    compared = runs.load([tmp_path / "none", folder])
    own = compared.results[1].record
    assert [each.name for each in compared.results] == ["none", "submodels"]
    assert (own.kind, own.tasks) == ("residual", ["spk1", "spk10", "spk2"])
    assert own.params_trainable == 3 * own.params_per_task


def test_another_folder_gets_a_record_where_a_report_looks(run, tmp_path):
    run(out=tmp_path / "here/decode_valid")
    assert RunRecord.read(tmp_path / "here/run.json").name == "here"
    run(out=tmp_path / "plain/out")
    assert not (tmp_path / "plain/run.json").exists()


def test_the_command_decodes_with_submodels(base_dir, folder, data):
    words = ["decode", str(base_dir), str(data), "--submodels", str(folder), "--submodel-mb", "1"]
    answer = CliRunner().invoke(app, [*words, "--device", "cpu"])
    assert answer.exit_code == 0, answer.output
    assert answer.stdout.strip().endswith(str(folder / "decode_valid"))
    assert json.loads((folder / "decode_valid/run.json").read_text())["num_utterances"] == 6


def test_a_speaker_without_a_submodel_has_the_shared_one(run, folder, data, tmp_path, caplog):
    shared = replace(files.read(folder / file_name("spk2")), task="shared")
    files.write(folder, shared)
    for name in ("spk2", "spk10"):
        (folder / file_name(name)).unlink()
    caplog.set_level("INFO")
    found, named = read_table(run() / "utt2score"), "valid: 2 of 3 speakers have no adapters of their own"
    assert caplog.text.count(f"{named} and use those of 'shared': spk10, spk2") == 1
    exp = tmp_path / "exp/tiny"
    owned = read_table(run(exp=exp, submodels=None) / "utt2score")
    assert {utt_id for utt_id in found if found[utt_id] != owned[utt_id]} == {"spk10-00", "spk10-01"}
    alone = read_table(run(unknown_speaker="base") / "utt2score")
    assert found["spk2-00"] != alone["spk2-00"]


def test_a_damaged_shared_submodel_is_named_where_it_is_needed(run, folder):
    (folder / file_name("spk10")).rename(folder / file_name("shared"))
    with pytest.raises(CheckpointError, match="shared.safetensors: holds the Submodel of 'spk10'"):
        run()
    run(unknown_speaker="base")
