"""Pruning: which blocks go first, what is left of adapters, and how it is measured and retrained."""

import json
import shutil
from dataclasses import asdict

import pytest
import torch

from adaptkit import experiment
from adaptkit.adapters import api
from adaptkit.adapters.api import AdapterConfig
from adaptkit.adapters.kinds import residual, tpa
from adaptkit.adapters.per_task import weights_of
from adaptkit.decoding.run import DecodeOptions, decode_and_score, decode_folder
from adaptkit.errors import CheckpointError, ConfigError
from adaptkit.kaldi import datadir
from adaptkit.kaldi.tables import write_table
from adaptkit.model import checkpoint
from adaptkit.model.load import load_experiment
from adaptkit.scoring import files as score_files
from adaptkit.scoring.wer import ErrorRate
from adaptkit.tensors import read_tensors, write_tensors
from adaptkit.training.prune import PrunedRow, cut, find_kept, format_rows, prune
from adaptkit.training.run import train_adapters

pytestmark = pytest.mark.slow

ENTRIES = ({"kind": "tpa", "bottleneck": 4}, {"kind": "residual", "bottleneck": 2})
PER_TASK = {"tpa": 2 * (2 * 16 * 4 + 4 + 16), "residual": 2 * 16 * 2 + 2 + 16}  # a block
TASKS = 3


class Shared(AdapterConfig):
    """A kind whose blocks share weights."""

    kind: str = "shared"


@pytest.fixture
def exp(base, base_dir, settings, tmp_path):
    """A folder of two kinds of adapters, trained as if: all weights are noise."""
    torch.manual_seed(0)
    made = experiment.Experiment.model_validate(
        {**settings(max_epochs=9, lr=1e-12).model_dump(), "adapters": ENTRIES}
    )
    stack = api.build(made.adapters, base.sites, ("spk1", "spk10", "spk2"), seed=0)
    for parameter in stack.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    experiment.save(made, tmp_path / "exp/config.yaml")
    path = tmp_path / "exp/adapter.safetensors"
    checkpoint.save(path, stack, base.fingerprint, 7, stack.state_dict())
    return path.parent


@pytest.fixture
def run(exp):
    """Prune it from the bottom; keywords replace options."""

    def measure(folder, data, batch_frames):
        return decode_and_score(folder, data, batch_frames=batch_frames, device="cpu").rate

    return lambda **changes: prune(exp, **{"measure": measure, "device": "cpu", **changes})


def weights_in(folder):
    return checkpoint.load(folder / "adapter.safetensors").weights


@pytest.mark.parametrize(
    ("from_bottom", "kept"), [(True, [(0, 1, 2), (1, 2), (2,)]), (False, [(0, 1, 2), (0, 1), (0,)])]
)
def test_blocks_go_one_by_one_from_either_end(from_bottom, kept):
    assert find_kept([tpa.Config()], 3, from_bottom=from_bottom) == kept


def test_blocks_that_carry_none_do_not_count():
    assert find_kept([tpa.Config(blocks=(5, 2))], 12, from_bottom=True) == [(2, 5), (5,)]


def test_every_adapter_that_can_be_pruned_keeps_a_block():
    entries = [tpa.Config(blocks=(0, 1)), residual.Config(), Shared()]
    assert find_kept(entries, 3, from_bottom=True) == [(0, 1, 2), (1, 2)]


def test_a_kind_without_blocks_is_refused_with_those_that_have_them():
    with pytest.raises(ConfigError, match=r"shared: cannot be pruned, .* 'blocks' can: .*residual.*tpa"):
        find_kept([Shared()], 3, from_bottom=True)


def test_what_is_left_has_the_weights_it_had(exp, assert_same):
    loaded = load_experiment(exp)
    left = cut(loaded, (1,))
    upper = {name: weight for name, weight in loaded.file.weights.items() if "-encoders-1" in name}
    assert_same(left.state_dict(), upper)
    assert [entry.blocks for entry in left.configs] == [(1,), (1,)]


def test_what_is_left_of_generated_weights_is_what_it_was(new_exp):
    loaded = load_experiment(new_exp(kind="tpa", bottleneck=3, bank="space", space_dim=2))
    left, whole = (weights_of(stack[0], stack[0].space, 2) for stack in (cut(loaded, (1,)), loaded.adapters))
    upper = {name: weight for name, weight in whole.items() if "-encoders-1" in name}
    assert len(upper) == len(whole) / 2
    torch.testing.assert_close(left, upper)


def test_speakers_who_kept_their_start_still_have_it(run, exp):
    path = exp / "adapter.safetensors"
    tensors, header = read_tensors(path)
    write_tensors(path, tensors, {**header, "unimproved": ["spk10"]})
    run()
    assert checkpoint.load(exp / "pruned_from_bottom/keep_1-1/adapter.safetensors").unimproved == ("spk10",)


def test_rows_count_what_is_left_by_the_closed_form(run):
    per_block = sum(PER_TASK.values())
    found = [(row.blocks, row.num_dropped, row.params_per_task, row.params) for row in run()]
    expected = [((0, 1), 0, 2 * per_block, 2 * per_block * TASKS), ((1,), 1, per_block, per_block * TASKS)]
    assert found == expected


def test_without_a_block_dropped_the_result_is_that_of_the_experiment(run, exp, corpus):
    data = corpus / "dump/valid"
    options = DecodeOptions(exp, data)
    report = score_files.score_files(data, decode_folder(options, device="cpu"))
    assert run(data=data)[0].pruned == ErrorRate(
        round(report.total.rate, 2), report.interval.low, report.interval.high
    )


def test_a_dropped_block_is_decoded_as_one_whose_adapters_add_nothing(run, exp, corpus):
    run(data=corpus / "dump/valid")
    path = exp / "adapter.safetensors"
    tensors, header = read_tensors(path)
    silent = {name: t * ("-encoders-0" not in name) for name, t in tensors.items()}
    write_tensors(path, silent, header)
    options = DecodeOptions(exp, corpus / "dump/valid", batch_frames=500)
    expected = (decode_folder(options, device="cpu") / "utt2score").read_text()
    assert (exp / "pruned_from_bottom/keep_1-1/decode_valid/utt2score").read_text() == expected


def test_rows_are_written_as_json(run, exp, tmp_path):
    rows = run(out=tmp_path / "here", from_bottom=False)
    written = json.loads((tmp_path / "here/prune.json").read_text())
    assert written == json.loads(json.dumps([asdict(row) for row in rows]))
    assert [row["blocks"] for row in written] == [[0, 1], [0]]


def test_retraining_starts_from_what_is_left(run, exp):
    rows = run(retrain_epochs=1)
    folder = exp / "pruned_from_bottom/keep_1-1"
    pruned, retrained = weights_in(folder), weights_in(folder / "retrained")
    assert all(torch.allclose(pruned[name], retrained[name], atol=1e-6) for name in pruned)  # lr is 1e-12
    assert [row.retrained.wer for row in rows] == [row.pruned.wer for row in rows]


def test_retraining_has_the_options_of_the_experiment_but_for_its_epochs_and_start(run, exp):
    run(retrain_epochs=1)
    folder = exp / "pruned_from_bottom/keep_1-1"
    own, changed = (experiment.load(path / "config.yaml") for path in (exp, folder / "retrained"))
    expected = {"max_epochs": 1, "start": folder / "adapter.safetensors", "decay_towards": "zero"}
    assert changed.train == own.train.model_copy(update=expected)
    assert (changed.base, changed.data, changed.name) == (own.base, own.data, "tiny_keep_1-1_retrained")


@pytest.fixture
def enroll(exp, base):
    """Append the speaker `ann` to the experiment's adapters."""

    def append():
        file, path = checkpoint.load(exp / "adapter.safetensors"), exp / "adapter.safetensors"
        stack = api.build(file.adapters, base.sites, (*file.tasks, "ann"), seed=0)
        checkpoint.save(path, stack, base.fingerprint, 7, stack.state_dict())

    return append


@pytest.fixture
def of_ann(corpus, tmp_path):
    """The validation set, of which spk1 is called `ann`."""
    data = shutil.copytree(corpus / "dump/valid", tmp_path / "of_ann")
    tasks = {u.utt_id: u.task.replace("spk10", "ann") for u in datadir.read(data).utterances}
    write_table(data / "utt2task", tasks)
    return data


def test_retraining_without_a_speaker_of_the_measured_set_is_refused_before_anything_is_measured(
    run, exp, enroll, of_ann
):
    enroll()
    with pytest.raises(ConfigError, match="of_ann: its speakers ann have no utterances in .* --data"):
        run(data=of_ann, retrain_epochs=1)
    assert not list(exp.glob("pruned_*/keep_*"))


def test_enrolled_speakers_are_measured_without_retraining(run, enroll, of_ann):
    enroll()
    assert len(run(data=of_ann)) == 2


def test_speakers_of_the_training_set_are_measured_after_retraining_beside_enrolled_ones(run, exp, enroll):
    enroll()
    run(retrain_epochs=1)
    retrained = checkpoint.load(exp / "pruned_from_bottom/keep_1-1/retrained/adapter.safetensors")
    assert retrained.tasks == ("spk1", "spk10", "spk2")


def test_a_second_run_trains_nothing_again(run, exp):
    first, folder = run(retrain_epochs=1), exp / "pruned_from_bottom/keep_1-1/retrained"
    names = ("adapter.safetensors", "state.safetensors", "train.jsonl", "run.json")
    before = [(folder / name).read_bytes() for name in names]
    assert run(retrain_epochs=1) == first
    assert [(folder / name).read_bytes() for name in names] == before


def test_retraining_of_other_weights_in_the_same_folder_is_refused(run, exp):
    run(retrain_epochs=1)
    tensors, header = read_tensors(exp / "adapter.safetensors")
    write_tensors(exp / "adapter.safetensors", {name: t + 1 for name, t in tensors.items()}, header)
    with pytest.raises(CheckpointError, match="saved by a run with different settings: start"):
        run(retrain_epochs=1)


def test_adapters_of_other_tasks_are_no_start(exp, tmp_path):
    path = exp / "adapter.safetensors"
    tensors, header = read_tensors(path)
    write_tensors(path, tensors, {**header, "tasks": ["a", "b", "c"]})
    made = experiment.load(exp / "config.yaml", [f"train.start={path}"])
    with pytest.raises(
        CheckpointError, match="its speakers are a, b, c, but those of the training set are spk1"
    ):
        train_adapters(made, tmp_path / "again", device="cpu")


def test_an_experiment_without_data_needs_a_set(run, exp):
    made = experiment.load(exp / "config.yaml")
    experiment.save(made.model_copy(update={"data": None}), exp / "config.yaml")
    with pytest.raises(ConfigError, match="names no data to measure on; name a set with --data"):
        run()


def test_table_has_a_line_for_each_number_of_blocks():
    rows = [
        PrunedRow((0, 1), 0, 3000, 1000, ErrorRate(12.0, 10.5, 14.25), ErrorRate(11.5, 9.0, 13.0)),
        PrunedRow((1,), 1, 1500, 500, ErrorRate(20.0, 18.0, 22.0), ErrorRate(12.5, 10.0, 15.0)),
    ]
    assert format_rows(rows).splitlines() == [
        "blocks  dropped  parameters  per speaker    WER   95 % interval  retrained   95 % interval",
        "0-1           0       3,000        1,000  12.00  10.50 to 14.25      11.50   9.00 to 13.00",
        "1             1       1,500          500  20.00  18.00 to 22.00      12.50  10.00 to 15.00",
    ]


def test_command_prints_the_table(adaptkit, exp):
    done = adaptkit("adapters", "prune", exp, "--from-bottom", "--device", "cpu")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["blocks", "0-1", "1"]
    assert (exp / "pruned_from_bottom/prune.json").exists()
