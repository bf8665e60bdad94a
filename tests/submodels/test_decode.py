"""Decoding with a folder of Submodels, of which few are in memory at a time."""

import json
import shutil
from contextlib import closing
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from adaptkit import experiment
from adaptkit.adapters.catalog import available
from adaptkit.base import checkpoint as base_checkpoint
from adaptkit.cli.main import app
from adaptkit.data.batches import load_batches
from adaptkit.data.dataset import number_tasks, read_examples
from adaptkit.decoding.batches import recognise_with_submodels
from adaptkit.decoding.run import DecodeOptions, decode_folder
from adaptkit.errors import AdaptkitError, CheckpointError, ConfigError
from adaptkit.kaldi.tables import read_table, write_table
from adaptkit.model import checkpoint
from adaptkit.model.adapted import AdaptedModel
from adaptkit.model.recognise import recognise
from adaptkit.records import DecodeRecord, RunRecord
from adaptkit.report import runs
from adaptkit.scoring import files as score_files
from adaptkit.submodels import export as folders
from adaptkit.submodels.cache import SubmodelCache
from adaptkit.submodels.files import file_name
from adaptkit.submodels.folder import SubmodelFolder

pytestmark = pytest.mark.espnet

TASKS = ("spk1 a", "spk1 b", "spk10 a", "spk10 b", "spk2 a")  # spk2 b is left to the base
SPACE = {"bank": "space", "space_dim": 2}
SMALL = 260  # frames of a batch of a few utterances


@pytest.fixture
def export(base, tmp_path):
    """Write an experiment's file and its Submodels; give their folder."""

    def run(stack):
        path = tmp_path / "exp/tiny/adapter.safetensors"
        checkpoint.save(path, stack, base.fingerprint, 7, stack.state_dict())
        folders.export(path, base, tmp_path / "submodels")
        return tmp_path / "submodels"

    return run


@pytest.fixture
def many(base, corpus):
    """The training set with six tasks, two of each speaker, one of which the adapters do not know."""
    read = read_examples(corpus / "dump/train", base)
    utterances = tuple(
        replace(u, task=f"{u.speaker} {'ab'[index % 2]}") for index, u in enumerate(read.data.utterances)
    )
    data = replace(read.data, utterances=utterances)
    return replace(read, data=data, task_ids=number_tasks(data, TASKS, unknown="base"))


def open_cache(base, folder, num_slots):
    bytes_each = SubmodelFolder(folder, base).bytes_each
    return closing(SubmodelCache(folder, base, budget_bytes=num_slots * bytes_each))


def said(adapted, examples, batch_frames, submodels=None):
    with adapted.hooked():
        if submodels is None:
            return recognise(adapted, examples, batch_frames)
        return recognise_with_submodels(adapted, examples, batch_frames, submodels)


# the same as with a bank of all


@pytest.mark.parametrize("kind", available())
def test_decoding_with_a_slot_too_few_equals_decoding_with_the_whole_bank(
    base, new_stack, export, many, kind, bank
):
    stack = new_stack(base, kind, tasks=TASKS, is_trained=True, **bank)
    expected = said(AdaptedModel(base, stack).eval(), many, SMALL)
    with open_cache(base, export(stack), len(TASKS) - 1) as submodels:
        found = said(AdaptedModel(base, submodels.stack).eval(), many, SMALL, submodels)
        assert submodels.stats().evictions > 0
    assert found == expected
    assert len({h.score for h in found}) == len(found)
    alone = {h.utt_id: h.score for h in said(AdaptedModel(base).eval(), many, SMALL)}
    changed = {h.utt_id for h in found if abs(h.score - alone[h.utt_id]) > 1e-3}  # in other batches, maybe
    assert changed == {u.utt_id for u in many.data.utterances if u.task != "spk2 b"}


@pytest.mark.parametrize("kind", available())
def test_what_leaves_the_encoder_is_the_same_bit_for_bit(
    base, new_stack, new_batch, encode, export, kind, bank
):
    stack = new_stack(base, kind, tasks=TASKS, is_trained=True, **bank)
    with open_cache(base, export(stack), len(TASKS) - 1) as submodels:
        for task_ids in ((0, 4, -1, 2), (3, 1, 3, 4), (-1, 2, 0, 0), (-1, -1)):
            batch = new_batch(task_ids)
            names = [TASKS[task] if task >= 0 else None for task in task_ids]
            with submodels.using(names) as slots:
                found = encode(base, submodels.stack, replace(batch, task_ids=tuple(slots)))
            assert torch.equal(found, encode(base, stack, batch))


def test_batches_mix_submodels_and_rows_of_the_base(base, many):
    plan = [list(range(len(many)))]
    (batch,) = load_batches(many, plan)
    assert set(batch.task_ids) == {-1, 0, 1, 2, 3, 4}


def test_a_batch_of_more_speakers_than_slots_is_refused_with_what_would_do(base, new_stack, export, many):
    stack = new_stack(base, tasks=TASKS, is_trained=True)
    with open_cache(base, export(stack), 2) as submodels:
        adapted = AdaptedModel(base, submodels.stack).eval()
        with pytest.raises(ConfigError, match=r"holds 5 speakers .*, and 2 may be .*; --submodel-mb 1 would"):
            said(adapted, many, 12000, submodels)
        assert submodels.stats().misses == 0


def test_loading_workers_do_not_change_what_is_found(base, new_stack, export, many):
    stack = new_stack(base, tasks=TASKS, is_trained=True)
    expected = said(AdaptedModel(base, stack).eval(), many, SMALL)
    with open_cache(base, export(stack), 4) as submodels:
        adapted = AdaptedModel(base, submodels.stack).eval()
        with adapted.hooked():
            found = recognise_with_submodels(adapted, many, SMALL, submodels, num_workers=2)
    assert found == expected


# folders


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


def test_a_set_of_nothing_but_short_utterances_is_decoded_to_nothing(run, data):
    write_table(data / "utt2num_frames", dict.fromkeys(read_table(data / "utt2num_frames"), "3"))
    assert set(read_table(run() / "text").values()) == {""}


def test_submodels_of_another_base_are_refused(run, new_base, tmp_path):
    other = new_base(seed=1)
    base_checkpoint.save(tmp_path / "other", other.config, other.model.state_dict())
    with pytest.raises(CheckpointError, match="Submodels of the base model .*; give the folder of the right"):
        run(exp=tmp_path / "other")


def test_a_folder_without_submodels_is_told_with_what_makes_them(run, tmp_path):
    with pytest.raises(AdaptkitError, match="nowhere.*no such file; 'adaptkit submodels export' writes it"):
        run(submodels=tmp_path / "nowhere")


def test_the_base_alone_with_submodels_is_refused(run):
    with pytest.raises(ConfigError, match="--base-only leaves adapters out, and --submodels names some"):
        run(base_only=True)


def test_a_budget_of_nothing_is_refused(run):
    with pytest.raises(ConfigError, match="--submodel-mb is the memory of --submodels, which is not given"):
        run(submodels=None, submodel_mb=1)


def test_there_are_no_more_slots_than_the_set_has_tasks(run, caplog):
    caplog.set_level("INFO")
    run(submodel_mb=64)
    assert "3 Submodels fit in memory" in caplog.text


# reports


def score(out, data):
    score_files.write(score_files.score_files(data, out, seed=0), out)


def test_a_report_takes_a_folder_of_submodels(run, folder, data, tmp_path):
    score(run(), data)
    score(run(submodels=None, out=tmp_path / "none/decode_valid"), data)
    compared = runs.load([tmp_path / "none", folder])
    own = compared.outcomes[1].record
    assert [each.name for each in compared.outcomes] == ["none", "submodels"]
    assert (own.kind, own.tasks) == ("residual", ["spk1", "spk10", "spk2"])
    assert own.params_trainable == 3 * own.params_per_task


def test_another_folder_gets_a_record_unless_it_has_one(run, tmp_path):
    run(out=tmp_path / "here/decode_valid")
    assert RunRecord.read(tmp_path / "here/run.json").name == "here"
    (tmp_path / "exp/tiny/run.json").write_text("its own")
    run(out=tmp_path / "exp/tiny/decode_submodels")
    run(out=tmp_path / "plain/out")
    assert (tmp_path / "exp/tiny/run.json").read_text() == "its own"
    assert not (tmp_path / "plain/run.json").exists()


def test_the_command_decodes_with_submodels(base_dir, folder, data):
    words = ["decode", str(base_dir), str(data), "--submodels", str(folder), "--submodel-mb", "1"]
    answer = CliRunner().invoke(app, [*words, "--device", "cpu"])
    assert answer.exit_code == 0, answer.output
    assert answer.stdout.strip().endswith(str(folder / "decode_valid"))
    assert json.loads((folder / "decode_valid/run.json").read_text())["num_utterances"] == 6
