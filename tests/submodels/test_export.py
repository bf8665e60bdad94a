"""Submodels: cut out of an experiment, listed, and put back."""

import multiprocessing
import shutil
import time
from dataclasses import replace

import pytest
import torch

from adaptkit.adapters.catalog import available
from adaptkit.adapters.per_task import task_parameters
from adaptkit.decoding.run import DecodeOptions, decode_folder
from adaptkit.errors import CheckpointError, ConfigError
from adaptkit.model import checkpoint
from adaptkit.records import Effort, RecordedModel, RunRecord, write_record
from adaptkit.submodels import export as folders
from adaptkit.submodels import files

SPACE = {"bank": "space", "space_dim": 3}


def content_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_back(folder, exp, pack):
    """Assert that a folder is merged into the very adapter file it came from."""
    pack(folder)
    made = (folder.parent / "merged/adapter.safetensors").read_bytes()
    assert made == (exp / "adapter.safetensors").read_bytes()


@pytest.mark.parametrize("kind", available())
def test_a_submodel_cut_out_and_put_back_is_the_whole(kind, new_exp, export, pack):
    exp = new_exp(kind=kind)
    assert_back(export(exp), exp, pack)


@pytest.mark.parametrize("kind", available())
def test_so_it_is_with_a_space(kind, new_exp, export, pack):
    exp = new_exp(kind=kind, **SPACE)
    assert_back(export(exp), exp, pack)


def test_so_it_is_with_several_adapters(new_exp, export, pack):
    exp = new_exp("exp", {"kind": "residual"}, {"kind": "hra"}, {"kind": "tpa", **SPACE})
    assert_back(export(exp), exp, pack)


def test_so_it_is_with_weights_that_no_task_owns(new_exp, export, pack):
    exp = new_exp(kind="full", per_task=False)
    assert_back(export(exp), exp, pack)


def test_so_it_is_with_names_of_any_kind(new_exp, export, pack):
    names = ("", ".", "..", "+shared", "Spk1", "a/b", "spk1", "spk10", "x y", "x" * 300, "é", "李")
    exp = new_exp(tasks=sorted(names))
    assert_back(export(exp), exp, pack)


def test_a_submodel_holds_what_its_task_owns(base, new_exp, export):
    path = new_exp(kind="hra") / "adapter.safetensors"
    found = files.read(export(path.parent) / "spk10.safetensors")
    stack = checkpoint.restore(checkpoint.load(path), base, path)
    own = {name: weight[1] for name, weight in task_parameters(stack)}
    assert found.weights.keys() == own.keys()
    assert all(torch.equal(found.weights[name], own[name]) for name in own)
    assert (found.task, found.kind, found.step) == ("spk10", "hra", 7)


def test_with_a_space_a_submodel_is_its_code_alone(new_exp, export):
    entries = folders.scan(export(new_exp(**SPACE)))
    assert [entry.num_parameters for entry in entries] == [3, 3, 3]


def test_a_folder_is_listed_by_task(base, folder):
    per_task = 2 * (2 * 16 * 4 + 4 + 16)
    found = [replace(entry, num_bytes=0) for entry in folders.scan(folder, base)]
    assert found == [
        folders.Entry(folder / f"{task}.safetensors", task, "residual", per_task, 0, base.fingerprint, "")
        for task in ("spk1", "spk10", "spk2")
    ]


def test_bytes_are_those_of_the_file(folder):
    assert all(entry.num_bytes == entry.path.stat().st_size for entry in folders.scan(folder))


def test_some_tasks_alone_are_exported(new_exp, export):
    entries = folders.scan(export(new_exp(), tasks=["spk2", "spk1", "spk2"]))
    assert [entry.task for entry in entries] == ["spk1", "spk2"]


def test_an_unknown_task_is_refused_before_anything_is_written(new_exp, export, tmp_path):
    with pytest.raises(ConfigError, match="has no speaker 'spk3'; did you mean"):
        export(new_exp(), tasks=["spk1", "spk3"])
    assert not (tmp_path / "submodels").exists()


def test_exporting_twice_gives_the_same_bytes(new_exp, export):
    exp = new_exp(kind="hra")
    before = content_of(export(exp))
    assert content_of(export(exp)) == before


def test_another_experiment_of_the_same_configuration_adds_its_tasks(new_exp, export, folder, pack):
    before = content_of(folder)
    export(new_exp("other", bottleneck=4, tasks=["new"]))
    assert content_of(folder).items() > before.items()
    assert pack(folder).tasks == ("new", "spk1", "spk10", "spk2")


def test_another_configuration_is_refused_with_the_difference(new_exp, export, folder):
    before = content_of(folder)
    with pytest.raises(CheckpointError, match="with adapters.0.bottleneck 8, not 4; choose another folder"):
        export(new_exp("other", bottleneck=8))
    assert content_of(folder) == before


def test_other_shared_weights_are_refused(new_exp, export, base):
    export(new_exp(kind="hra"))
    exp = new_exp("other", kind="hra")
    path = exp / "adapter.safetensors"
    file = checkpoint.load(path)
    moved = {name: weight + 1 for name, weight in file.weights.items()}
    checkpoint.save(path, checkpoint.restore(file, base, path), base.fingerprint, 8, moved)
    with pytest.raises(CheckpointError, match="with shared weights .*, not .*; choose another folder"):
        export(exp)


def test_the_folder_of_the_experiment_itself_is_refused(new_exp, export):
    exp = new_exp(tasks=["adapter"])
    before = content_of(exp)
    with pytest.raises(ConfigError, match="choose a separate folder for Submodels"):
        export(exp, exp.name)
    assert content_of(exp) == before


def test_an_export_for_another_base_is_refused(new_exp, new_base, tmp_path):
    path = new_exp() / "adapter.safetensors"
    with pytest.raises(CheckpointError, match="trained on base model"):
        folders.export(path, new_base(seed=1), tmp_path / "submodels")
    assert not (tmp_path / "submodels").exists()


@pytest.mark.parametrize("taken", ["train.jsonl", "+shared.safetensors", "model.pth", "added"])
def test_a_merge_overwrites_nothing_else(folder, pack, tmp_path, taken):
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / taken).touch()
    with pytest.raises(ConfigError, match="would invalidate; choose another folder"):
        pack(folder)


@pytest.mark.parametrize("has_record", [True, False])
def test_a_merge_does_not_replace_an_experiment_that_was_copied_without_its_log(
    folder, base, pack, tmp_path, has_record
):
    merged = tmp_path / "merged"
    shutil.copytree(tmp_path / "exp", merged)
    if has_record:
        made, effort = RecordedModel("exp", "residual", ["spk1"], 1, 1), Effort(epochs=3, steps=7)
        known = {"base_fingerprint": base.fingerprint, "params_base": base.num_parameters}
        write_record(merged, made, **known, device="cpu", effort=effort)
    before = content_of(merged)
    with pytest.raises(ConfigError, match="was not packed and would be replaced; choose another folder"):
        pack(folder)
    assert content_of(merged) == before


def test_a_merge_needs_a_folder_whose_name_an_experiment_can_have(folder, base, tmp_path):
    with pytest.raises(ConfigError, match="name: expected letters, digits"):
        folders.pack(folder, base, tmp_path / "has space")


def test_merging_twice_gives_the_same_bytes(folder, pack, tmp_path):
    pack(folder)
    before = (tmp_path / "merged/adapter.safetensors").read_bytes()
    pack(folder)
    assert (tmp_path / "merged/adapter.safetensors").read_bytes() == before


def test_what_is_merged_decodes_as_the_experiment_did(base_dir, base, folder, corpus, tmp_path):
    folders.pack(folder, replace(base, path=base_dir), tmp_path / "merged")
    scores = []
    for name in ("exp", "merged"):
        wanted = DecodeOptions(exp=tmp_path / name, data=corpus / "dump/valid", batch_frames=500)
        scores.append((decode_folder(wanted, device="cpu") / "utt2score").read_bytes())
    assert scores[0] == scores[1]


def test_what_is_merged_has_the_record_that_a_report_reads(folder, pack, tmp_path):
    pack(folder)
    found = RunRecord.read(tmp_path / "merged/run.json")
    per_task = 2 * (2 * 16 * 4 + 4 + 16)
    assert (found.name, found.kind, found.tasks) == ("merged", "residual", ["spk1", "spk10", "spk2"])
    assert (found.params_trainable, found.params_per_task) == (3 * per_task, per_task)


@pytest.mark.slow
def test_three_thousand_submodels_take_seconds(base, new_exp, export, pack):
    exp = new_exp(bottleneck=1, tasks=sorted(f"spk{number}" for number in range(3000)))
    folder = export(exp)
    started = time.monotonic()
    entries = folders.scan(folder, base)
    scanned = time.monotonic()
    assert_back(folder, exp, pack)
    assert not any(entry.problem for entry in entries)
    assert scanned - started < 10
    assert time.monotonic() - scanned < 30


@pytest.mark.slow
def test_an_export_that_was_killed_leaves_whole_files_and_can_be_done_again(base, new_exp, export, pack):
    exp = new_exp(bottleneck=1, tasks=[f"spk{number:03}" for number in range(500)])
    arguments = (exp / "adapter.safetensors", base, exp.parent / "submodels")
    process = multiprocessing.get_context("fork").Process(target=folders.export, args=arguments)
    process.start()
    while not (arguments[2] / "spk020.safetensors").exists():
        assert process.is_alive()
    process.kill()
    process.join()
    left = folders.check(arguments[2], base)
    assert not any(entry.problem for entry in left)
    assert len(left) < 500
    assert_back(export(exp), exp, pack)


def test_a_submodel_that_kept_its_start_is_marked_everywhere(new_exp, export, pack, base, caplog):
    exp = new_exp(bottleneck=4)
    path = exp / "adapter.safetensors"
    stack = checkpoint.restore(checkpoint.load(path), base, path)
    checkpoint.save(path, stack, base.fingerprint, 8, stack.state_dict(), unimproved=["spk10"])
    folder = export(exp)
    assert (
        "1 of 3 Submodels hold the weights of their start, as no validation was better: spk10" in caplog.text
    )
    heads = [files.read_head(file)[0] for file in sorted(folder.glob("spk*"))]
    assert [(head.task, head.unimproved) for head in heads] == [
        ("spk1", False),
        ("spk10", True),
        ("spk2", False),
    ]
    lines = folders.format_entries(folders.check(folder, base)).splitlines()
    assert ["of the start" in line for line in lines] == [False, False, True, False]
    assert_back(folder, exp, pack)
