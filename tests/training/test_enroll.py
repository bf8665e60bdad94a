"""Enrolling new speakers: only what is theirs is trained, in a bank that otherwise stays bit for bit."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adaptkit import experiment
from adaptkit.adapters.per_task import SHARED, shared_parameters, task_parameters
from adaptkit.base import checkpoint as base_checkpoint
from adaptkit.data.dataset import number_tasks, read_examples
from adaptkit.errors import CheckpointError, ConfigError, DataError
from adaptkit.kaldi import datadir, subset
from adaptkit.kaldi.tables import read_table, write_table
from adaptkit.model import checkpoint
from adaptkit.model.adapted import AdaptedModel
from adaptkit.records import RunRecord
from adaptkit.tensors import read_tensors, write_tensors
from adaptkit.training import enroll
from adaptkit.training.run import train_adapters
from adaptkit.training.state import read_state

pytestmark = pytest.mark.slow

KNOWN, NEW = ("spk1", "spk10"), "spk2"
LAST = ("train.folds=null",)  # keeps the last weights, as nothing is held out
BANKS = {
    "table": {"kind": "residual", "bottleneck": 4},
    "space": {"kind": "residual", "bottleneck": 4, "bank": "space", "space_dim": 3},
    "hra": {"kind": "hra", "controller_width": 6},
}

of_one_bank = pytest.mark.parametrize("entry", ["table"], indirect=True)
RUN = RunRecord(
    name="known",
    kind="residual",
    tasks=list(KNOWN),
    base_fingerprint="9f3a",
    params_base=1000,
    params_trainable=200,
    params_per_task=100,
    train_seconds=61.5,
    peak_mb=900.0,
    epochs=12,
    steps=300,
    seed=0,
    versions={},
    recipe_commit=None,
    command="adaptkit train",
)


@pytest.fixture(params=BANKS)
def entry(request):
    """The entry of adapters of each bank."""
    return BANKS[request.param]


@pytest.fixture
def known(entry, base, base_dir, corpus, new_stack, tmp_path):
    """An experiment whose adapter file has two of the three speakers."""
    sets = {name: str(corpus / "dump" / name) for name in ("train", "valid")}
    train = {"max_epochs": 2, "lr": 0.02, "warmup_steps": 0, "task_utterances": 3}
    content = {
        "name": "known",
        "base": {"dir": str(base_dir)},
        "data": sets,
        "adapters": [entry],
        "train": train,
    }
    experiment.save(experiment.Experiment.model_validate(content), tmp_path / "known" / "config.yaml")
    stack = new_stack(base, **entry, tasks=KNOWN, is_trained=True)
    path = tmp_path / "known" / "adapter.safetensors"
    checkpoint.save(path, stack, base.fingerprint, 5, stack.state_dict())
    return tmp_path / "known"


@pytest.fixture
def lone(known, entry, base, new_stack):
    """The experiment with none of the three speakers, but another."""
    stack = new_stack(base, **entry, tasks=("else",))
    checkpoint.save(known / "adapter.safetensors", stack, base.fingerprint, 5, stack.state_dict())
    return known


@pytest.fixture
def options(known, corpus):
    """Ask for the third speaker."""
    return enroll.EnrollOptions(
        exp=known,
        data=corpus / "dump/train",
        valid=None,
        speakers=(NEW,),
        start="mean",
        out=None,
        base=None,
        overrides=LAST,
        allow_pipes=False,
    )


def read(folder):
    return checkpoint.load(folder / "adapter.safetensors")


def test_a_new_speaker_joins_a_bank_that_else_stays_bit_for_bit(options, known):
    before = read(known)
    enroll.enroll(options, device="cpu")
    after = read(known)
    assert after.tasks == (*KNOWN, NEW)
    for name, weight in before.weights.items():
        kept = after.weights[name][: len(weight)] if name in owned(known) else after.weights[name]
        assert torch.equal(kept, weight)


def owned(known):
    settings = experiment.load(known / "config.yaml")
    base = base_checkpoint.load(settings.base.dir)
    path = known / "adapter.safetensors"
    return {name for name, _ in task_parameters(checkpoint.restore(read(known), base, path))}


@pytest.mark.parametrize("entry", ["hra"], indirect=True)
def test_a_shared_weight_that_the_last_step_left_out_of_its_range_stays_as_it_is(options, known):
    path, name = known / "adapter.safetensors", "0.controllers.all.factor"
    tensors, header = read_tensors(path)
    tensors[name][0] = 1.5  # above 2^(1/2), the bound with two blocks
    write_tensors(path, tensors, header)
    enroll.enroll(options, device="cpu")
    assert read(known).tasks == (*KNOWN, NEW)
    assert torch.equal(read(known).weights[name], tensors[name])


def test_a_new_speaker_learns(options, known, base, corpus):
    examples = read_examples(corpus / "dump/train", base)
    others = {u.utt_id for u in examples.data.utterances if u.task != NEW}
    losses = []
    for overrides in ((*LAST, "train.lr=1e-12"), (*LAST, "train.max_epochs=8")):
        out = known.parent / f"out{len(losses)}"
        enroll.enroll(replace(options, out=out, overrides=overrides), device="cpu")
        stack = checkpoint.restore(read(out), base, out)
        own = replace(examples.without(others), task_ids={NEW: stack.tasks.index(NEW)})
        losses.append(mean_loss(base, stack, own))
    assert losses[1] < losses[0]


def mean_loss(base, stack, examples):
    from adaptkit.training.validation import validate

    adapted = AdaptedModel(base, stack).eval()
    with adapted.hooked():
        return validate(adapted, examples, 10**6).loss


def test_two_new_speakers_in_one_job_are_as_in_two(lone, options):
    both = replace(options, speakers=("spk1", NEW), out=lone.parent / "both")
    alone = replace(options, out=lone.parent / "alone")
    for each in (both, alone):
        enroll.enroll(each, device="cpu")
    one, other = read(alone.out), read(both.out)
    assert other.tasks == ("else", "spk1", NEW)
    for name in owned(lone):
        torch.testing.assert_close(other.weights[name][2], one.weights[name][1], atol=2e-4, rtol=1e-3)


def test_out_leaves_the_experiment_alone_and_decodes_as_one(options, known):
    before = (known / "adapter.safetensors").read_bytes()
    out = known.parent / "more"
    assert enroll.enroll(replace(options, out=out), device="cpu") == out
    assert (known / "adapter.safetensors").read_bytes() == before
    assert read(out).tasks == (*KNOWN, NEW)
    assert experiment.load(out / "config.yaml").name == "more"
    assert json.loads((out / "run.json").read_text())["tasks"] == [*KNOWN, NEW]


@of_one_bank
@pytest.mark.parametrize("overrides", [(), ("train.max_epochs=1",)])
def test_out_has_the_settings_of_the_experiment_but_for_its_name(options, known, overrides):
    out = known.parent / "more"
    enroll.enroll(replace(options, out=out, overrides=overrides), device="cpu")
    own = experiment.load(known / "config.yaml")
    assert experiment.load(out / "config.yaml") == own.model_copy(update={"name": "more"})


@of_one_bank
def test_more_speakers_can_be_enrolled_from_an_out_with_a_validation_set(options, lone, corpus):
    out, more = lone.parent / "more", lone.parent / "even_more"
    enroll.enroll(replace(options, out=out, overrides=("train.max_epochs=1",)), device="cpu")
    chosen = replace(
        options, exp=out, out=more, speakers=("spk1",), valid=corpus / "dump/valid", overrides=()
    )
    enroll.enroll(chosen, device="cpu")
    assert read(more).tasks == ("else", NEW, "spk1")


@of_one_bank
@pytest.mark.parametrize("into", ["out", "itself"])
def test_the_record_of_enrolments_adds_up_what_each_took(options, lone, into):
    out = lone.parent / "more"
    settings = ("train.folds=2", "train.lr=0.004", "train.valid_metric=loss")
    enroll.enroll(replace(options, out=out, overrides=settings), device="cpu")
    first = RunRecord.read(out / "run.json")
    place = {"out": out} if into == "out" else {"exp": out}
    enroll.enroll(replace(options, **place, speakers=("spk1",), overrides=settings), device="cpu")
    both, path = RunRecord.read(out / "run.json"), out / "added/spk1/state.safetensors"
    state = read_state(read_tensors(path)[1], path)
    assert (both.epochs, both.steps) == (
        first.epochs + state.epoch + state.trial_epochs,
        first.steps + state.step + state.trial_steps,
    )
    assert both.train_seconds == pytest.approx(first.train_seconds + state.seconds)
    assert both.cpu_seconds == pytest.approx(first.cpu_seconds + state.cpu_seconds)
    assert both.peak_mb == max(first.peak_mb, state.peak_mb)
    assert (both.valid_metric, sum(both.selection["epochs"].values())) == ("loss", 2)


@of_one_bank
def test_the_record_of_enrolments_by_several_metrics_has_none(options, lone):
    out = lone.parent / "more"
    enroll.enroll(replace(options, out=out, overrides=("train.folds=2",)), device="cpu")
    first = RunRecord.read(out / "run.json")
    enroll.enroll(replace(options, out=out, speakers=("spk1",)), device="cpu")
    both = RunRecord.read(out / "run.json")
    assert (first.valid_metric, both.valid_metric) == ("wer", "")
    assert both.selection == first.selection


@of_one_bank
def test_only_an_interrupted_enrolment_speaks_of_resuming(options, known, caplog):
    again = replace(options, out=known.parent / "more")
    caplog.set_level(logging.INFO)
    enroll.enroll(again, device="cpu")
    assert "resume" not in caplog.text
    enroll.enroll(again, device="cpu")
    assert "resumed at step" in caplog.text


def test_a_finished_enrolment_can_run_again_and_changes_nothing(options, known):
    again = replace(options, out=known.parent / "more")
    enroll.enroll(again, device="cpu")
    before = (again.out / "adapter.safetensors").read_bytes()
    enroll.enroll(again, device="cpu")
    assert (again.out / "adapter.safetensors").read_bytes() == before


def test_speakers_added_one_by_one_to_an_out_are_all_in_it(options, lone):
    out = lone.parent / "more"
    for speaker in (NEW, "spk1", NEW):
        enroll.enroll(replace(options, speakers=(speaker,), out=out), device="cpu")
    assert read(out).tasks == ("else", NEW, "spk1")
    run = RunRecord.read(out / "run.json")
    assert run.tasks == ["else", NEW, "spk1"]
    assert run.params_trainable == 2 * run.params_per_task


def test_a_bank_that_was_lost_is_made_again_of_what_was_trained(options, known):
    more = replace(options, out=known.parent / "more")
    enroll.enroll(more, device="cpu")
    before = content(more.out)
    for name in ("adapter.safetensors", "config.yaml"):
        (more.out / name).unlink()
    enroll.enroll(more, device="cpu")
    assert content(more.out) == before


def test_a_finished_enrolment_in_place_can_run_again_and_changes_nothing(options, known):
    enroll.enroll(options, device="cpu")
    before = content(known)
    enroll.enroll(options, device="cpu")
    assert content(known) == before


def test_a_speaker_in_place_is_appended_again_where_the_bank_was_written_without(options, known):
    without = (known / "adapter.safetensors").read_bytes()
    enroll.enroll(options, device="cpu")
    before = content(known)
    (known / "adapter.safetensors").write_bytes(without)
    enroll.enroll(options, device="cpu")
    assert content(known) == before


def content(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@of_one_bank
@pytest.mark.parametrize(
    "names", [("adapter.safetensors",), ("model.pth",), ("state.safetensors", "added/x")]
)
def test_an_out_that_holds_something_else_is_refused_and_stays(options, known, names):
    out = known.parent / "other"
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(b"of something else")
    before = content(out)
    with pytest.raises(CheckpointError, match=f"has {names[0]} of another run"):
        enroll.enroll(replace(options, out=out), device="cpu")
    assert content(out) == before


@of_one_bank
def test_an_out_of_another_experiment_is_refused_and_stays(options, known, base, new_stack):
    out = known.parent / "more"
    enroll.enroll(replace(options, out=out), device="cpu")
    before = content(out)
    stack = new_stack(base, **BANKS["table"], tasks=KNOWN)  # of the same tasks and sizes
    checkpoint.save(known / "adapter.safetensors", stack, base.fingerprint, 5, stack.state_dict())
    with pytest.raises(CheckpointError, match="more: its adapter file does not extend that of"):
        enroll.enroll(replace(options, out=out), device="cpu")
    assert content(out) == before


@of_one_bank
@pytest.mark.parametrize("is_done", [False, True])
def test_in_place_is_refused_until_the_training_is_over(options, known, is_done):
    header = {"state": {"is_done": is_done, "standings": {}}, "identity": {}, "scaler": {}}
    write_tensors(known / "state.safetensors", {}, header)
    if is_done:
        enroll.enroll(options, device="cpu")
        assert read(known).tasks == (*KNOWN, NEW)
        return
    with pytest.raises(CheckpointError, match="its training is unfinished"):
        enroll.enroll(options, device="cpu")
    assert not (known / "added").exists()


@of_one_bank
def test_in_place_the_record_counts_the_new_speaker(options, known):
    RUN.write(known / "run.json")
    enroll.enroll(options, device="cpu")
    stack = {name: weight[0] for name, weight in read(known).weights.items()}
    num_each = sum(weight.numel() for weight in stack.values())
    counts = {"params_trainable": 200 + num_each, "params_per_task": num_each}
    changed = {"tasks": [*KNOWN, NEW], **counts}
    assert RunRecord.read(known / "run.json") == replace(RUN, **changed)


@of_one_bank
@pytest.mark.parametrize("kind", ["full", "bitfit"])
def test_adapters_of_which_speakers_own_nothing_are_refused(options, known, base, new_stack, kind):
    stack = new_stack(base, kind, per_task=False, tasks=KNOWN)
    checkpoint.save(known / "adapter.safetensors", stack, base.fingerprint, 5, stack.state_dict())
    with pytest.raises(ConfigError, match=f"{kind} has no per-speaker weights"):
        enroll.enroll(options, device="cpu")


@of_one_bank
def test_an_out_that_is_the_current_folder_gives_its_name(options, known, base_dir, monkeypatch):
    (known.parent / "here").mkdir()
    monkeypatch.chdir(known.parent / "here")
    enroll.enroll(replace(options, out=Path(), base=base_dir), device="cpu")
    assert experiment.load(Path("config.yaml")).name == "here"


def test_mean_is_the_mean_of_what_the_known_own(known, options, base, corpus):
    stack = checkpoint.restore(read(known), base, known)
    examples = only(read_examples(corpus / "dump/train", base), NEW)
    started = enroll.start(stack, examples, "mean", seed=0)
    expected = {name: table.mean(dim=0) for name, table in task_parameters(stack)}
    for name, table in task_parameters(started):
        assert torch.equal(table[0], expected[name])


def test_what_is_shared_is_the_known_ones_and_frozen(known, base, corpus):
    stack = checkpoint.restore(read(known), base, known)
    started = enroll.start(stack, only(read_examples(corpus / "dump/train", base), NEW), "new", seed=0)
    expected = dict(shared_parameters(stack))
    for name, parameter in shared_parameters(started):
        assert torch.equal(parameter, expected[name])
        assert not parameter.requires_grad


def only(examples, speaker):
    kept = examples.without({u.utt_id for u in examples.data.utterances if u.task != speaker})
    return replace(kept, task_ids=number_tasks(kept.data, (speaker,)))


def test_nearest_is_the_one_with_the_lowest_loss(known, base, corpus):
    stack = checkpoint.restore(read(known), base, known)
    examples = only(read_examples(corpus / "dump/train", base), NEW)
    heard = examples.without({u.utt_id for u in examples.data.utterances[4:]})
    losses = [mean_loss(base, stack, replace(heard, task_ids={NEW: index})) for index in range(len(KNOWN))]
    assert enroll.find_nearest(stack, examples, NEW) == losses.index(min(losses))


def test_a_known_speaker_whose_loss_is_no_number_is_not_the_nearest(known, base, corpus):
    stack = checkpoint.restore(read(known), base, known)
    examples = only(read_examples(corpus / "dump/train", base), NEW)
    for index, expected in ((0, 1), (1, None)):
        for _, table in task_parameters(stack):
            table[index] = torch.nan
        if expected is not None:
            assert enroll.find_nearest(stack, examples, NEW) == expected
    with pytest.raises(DataError, match="the loss of spk2-00, .* is not finite with any known speaker's"):
        enroll.find_nearest(stack, examples, NEW)


def test_a_validation_set_chooses_the_weights(options, known, corpus, caplog):
    chosen = replace(options, valid=corpus / "dump/valid", out=known.parent / "chosen", overrides=())
    enroll.enroll(chosen, device="cpu")
    assert "dump/valid: the sentences of" in caplog.text
    events = (known.parent / "chosen/added" / NEW / "train.jsonl").read_text()
    assert '"event": "valid"' in events
    assert '"speakers": 1,' in events


@of_one_bank
def test_new_speakers_without_validation_utterances_are_named(options, base, corpus, tmp_path, caplog):
    data = datadir.read(corpus / "dump/valid")
    subset.save(subset.subset(data, subset.choose_speakers(data, [NEW]), path=tmp_path / "one"), [data])
    enroll._read(replace(options, speakers=("spk1", NEW), valid=tmp_path / "one"), base)
    assert "one: no utterance of spk1: their last weights are kept" in caplog.text


@of_one_bank
@pytest.mark.parametrize("select", ["speaker", "all"])
def test_folds_choose_rate_and_epochs_of_new_speakers(options, known, corpus, select):
    grid = "train.lr=[0.001,0.004]"
    settings = ("train.folds=2", grid, "train.valid_metric=loss", f"train.select={select}")
    out = known.parent / "out"
    chosen = replace(options, out=out, start="new", overrides=settings)
    enroll.enroll(chosen, device="cpu")
    run = RunRecord.read(out / "run.json")
    name, rate, epochs, *_ = (out / f"added/{NEW}/selection.tsv").read_text().splitlines()[1].split("\t")
    assert run.selection == {"lr": {} if epochs == "0" else {rate: 1}, "epochs": {epochs: 1}}
    assert (name, run.valid_metric) == (NEW, "loss")
    before = content(out)
    enroll.enroll(chosen, device="cpu")
    assert content(out) == before


@of_one_bank
def test_by_default_folds_keep_the_start_where_training_helps_too_little(options, known):
    enough = ("train.min_gain=0.99", "train.valid_metric=loss")  # of the loss
    for name, overrides in (("chosen", enough), ("last", LAST)):
        out = known.parent / name
        enroll.enroll(replace(options, out=out, overrides=overrides), device="cpu")
        mean = {place: weight.mean(dim=0) for place, weight in read(known).weights.items()}
        kept = [torch.allclose(read(out).weights[place][2], mean[place]) for place in owned(known)]
        assert all(kept) == (name == "chosen")
    run = RunRecord.read(known.parent / "chosen/run.json")
    assert (run.unimproved, run.selection["epochs"]) == ([NEW], {"0": 1})
    assert not RunRecord.read(known.parent / "last/run.json").selection


@of_one_bank
def test_default_folds_replace_early_stopping_of_the_experiment(options, known):
    settings = experiment.load(known / "config.yaml")
    train = settings.train.model_copy(update={"patience": 1, "average": 2})
    experiment.save(settings.model_copy(update={"train": train}), known / "config.yaml")
    chosen = ("train.folds=2", "train.patience=null", "train.average=1")
    for overrides, folds in (((), 5), (chosen, 2)):
        out = known.parent / f"out{folds}"
        enroll.enroll(replace(options, out=out, overrides=overrides), device="cpu")
        assert experiment.load(out / f"added/{NEW}/config.yaml").train.folds == folds


@of_one_bank
def test_a_new_speaker_of_a_single_utterance_is_trained_as_without_folds(options, known, corpus, tmp_path):
    data = datadir.read(corpus / "dump/train")
    first = next(u.utt_id for u in data.utterances if u.speaker == NEW)
    subset.save(subset.subset(data, [first], path=tmp_path / "one"), [data])
    for name, overrides in (("with", ()), ("without", LAST)):
        own = replace(options, data=tmp_path / "one", out=known.parent / name, overrides=overrides)
        enroll.enroll(own, device="cpu")
    one, other = (read(known.parent / name) for name in ("with", "without"))
    assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)
    assert RunRecord.read(known.parent / "with/run.json").valid_metric == ""


@pytest.mark.parametrize("entry", ["table", "space"], indirect=True)
def test_a_new_speaker_that_no_step_improves_keeps_the_mean_it_starts_from(options, known, corpus):
    RUN.write(known / "run.json")
    idle = ("train.lr=1e-30",)  # moves no weight
    enroll.enroll(replace(options, valid=corpus / "dump/valid", overrides=idle), device="cpu")
    assert (read(known).unimproved, RunRecord.read(known / "run.json").unimproved) == ((NEW,), [NEW])
    for name in owned(known):
        weights = read(known).weights[name]
        torch.testing.assert_close(weights[2], weights[:2].mean(dim=0))


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"speakers": ("spk3",)}, DataError, "'spk3'"),
        ({"speakers": ("spk1",)}, CheckpointError, "has spk1 already"),
        ({"overrides": ("adapters.0.bottleneck=9",)}, ConfigError, "remove this option"),
        ({"overrides": ("train.start=exp/shared",)}, ConfigError, "has no effect on enrolment"),
        ({"overrides": ("train.patience=2",)}, ConfigError, "without --valid; add --valid, or remove"),
        (
            {"overrides": (*LAST, "train.select=all")},
            ConfigError,
            "add --valid, or omit --set train.folds=null",
        ),
        (
            {"overrides": (*LAST, "train.lr=[1e-3,1e-2]")},
            ConfigError,
            "none of 0.001, 0.01 can be .*lr=0.001",
        ),
        (
            {"overrides": ("train.folds=2",), "valid": Path("x")},
            ConfigError,
            "omit --valid, or add --set",
        ),
    ],
)
def test_what_cannot_be_enrolled_is_refused(options, known, changes, error, match):
    before = (known / "adapter.safetensors").read_bytes()
    with pytest.raises(error, match=match):
        enroll.enroll(replace(options, **changes), device="cpu")
    assert (known / "adapter.safetensors").read_bytes() == before


def test_a_name_that_is_a_path_stays_inside(options, known, corpus, tmp_path):
    data = datadir.read(corpus / "dump/train")
    own = subset.subset(data, subset.choose_speakers(data, [NEW]), path=tmp_path / "odd")
    odd = tuple(replace(u, task="../../x") for u in own.utterances)
    subset.save(replace(own, utterances=odd), [data])
    enroll.enroll(replace(options, data=tmp_path / "odd", speakers=()), device="cpu")
    assert read(known).tasks == (*KNOWN, "../../x")
    assert [path.parent for path in known.rglob("state.safetensors")] == [known / "added/%2E%2E%2F%2E%2E%2Fx"]


@of_one_bank
def test_an_enrolled_speaker_is_not_trained_for_more_epochs(options, known):
    enroll.enroll(options, device="cpu")
    before = content(known)
    with pytest.raises(
        CheckpointError, match="spk2 are enrolled already and cannot be trained for more epochs"
    ):
        enroll.enroll(replace(options, overrides=(*LAST, "train.max_epochs=4")), device="cpu")
    assert content(known) == before


@of_one_bank
def test_an_interrupted_enrolment_goes_on_from_its_own_start(options, known, tmp_path, kill_at, adaptkit):
    words = ["--data", options.data, "--speaker", NEW, "--start", "mean", "--device", "cpu"]
    words += ["--set", "train.lr=0.02", "--set", "train.folds=2", "--set", "train.save_every_steps=1"]
    whole = shutil.copytree(known, tmp_path / "whole")
    adaptkit("submodels", "enroll", whole, *words)
    trial = known / "added" / NEW / "trials/lr_0.02_fold_1"
    kill_at(2, trial, "submodels", "enroll", known, *words)
    assert not (known / "added" / NEW / "run.json").exists()
    weights, header = read_tensors(known / "adapter.safetensors")
    moved = {name: weight + 1.0 for name, weight in weights.items()}  # as others enrolled move the mean
    write_tensors(known / "adapter.safetensors", moved, header)

    adaptkit("submodels", "enroll", known, *words)
    resumed, uninterrupted = (read(folder).weights for folder in (known, whole))
    for name, weight in uninterrupted.items():
        assert torch.equal(resumed[name][2], weight[2])


# from a shared adapter

IDLE = (*LAST, "train.lr=1e-60", "train.max_epochs=1")  # moves no weight, not even one of zero


@pytest.fixture
def shared_start(known, entry, base, new_stack):
    """Adapters for all speakers, which the known experiment has started from."""
    table = {name: value for name, value in entry.items() if name not in ("bank", "space_dim")}
    stack = new_stack(base, **table, tasks=(SHARED,), is_trained=True)
    checkpoint.save(known / "start.safetensors", stack, base.fingerprint, 3, stack.state_dict())
    return stack


@pytest.mark.parametrize("where", [None, "shared"])
def test_a_new_speaker_starts_from_what_the_known_did(options, known, shared_start, where):
    more = replace(options, start=where, overrides=IDLE, out=known.parent / "more")
    enroll.enroll(more, device="cpu")
    expected = dict(task_parameters(shared_start))
    for name in owned(known):
        own = read(more.out).weights[name][2]
        embedding = torch.zeros_like(own)  # theirs is zero
        torch.testing.assert_close(own, expected[name][0] if name in expected else embedding, atol=0, rtol=0)
    assert (more.out / "start.safetensors").read_bytes() == (known / "start.safetensors").read_bytes()


def test_a_new_speaker_starts_from_the_one_called_shared(options, known, base, entry, new_stack):
    stack = new_stack(base, **entry, tasks=(KNOWN[0], SHARED), is_trained=True)
    checkpoint.save(known / "adapter.safetensors", stack, base.fingerprint, 5, stack.state_dict())
    enroll.enroll(replace(options, start=None, overrides=IDLE), device="cpu")
    assert all(read(known).weights[name][2].equal(read(known).weights[name][1]) for name in owned(known))


@of_one_bank
def test_the_mean_of_speakers_is_without_the_one_for_all(known, base, entry, new_stack, corpus):
    stack = new_stack(base, **entry, tasks=(*KNOWN, SHARED), is_trained=True)
    examples = only(read_examples(corpus / "dump/train", base), NEW)
    started = enroll.start(stack, examples, "mean", seed=0)
    for name, table in task_parameters(stack):
        assert dict(task_parameters(started))[name][0].equal(table[:2].mean(dim=0))


@of_one_bank
def test_a_shared_start_that_is_nowhere_is_refused_with_what_works(options, known):
    with pytest.raises(ConfigError, match="has no shared adapter: .* use --start mean"):
        enroll.enroll(replace(options, start="shared"), device="cpu")
    enroll.enroll(replace(options, start=None, overrides=IDLE), device="cpu")
    for name in owned(known):
        torch.testing.assert_close(read(known).weights[name][2], read(known).weights[name][:2].mean(dim=0))


@of_one_bank
def test_a_new_speaker_called_shared_is_refused(options, corpus, tmp_path):
    data = shutil.copytree(corpus / "dump/train", tmp_path / "data")
    write_table(data / "utt2task", dict.fromkeys(read_table(data / "utt2spk"), SHARED))
    with pytest.raises(DataError, match="has a speaker named 'shared', as the adapter for all speakers is"):
        enroll.enroll(replace(options, data=data, speakers=()), device="cpu")


@of_one_bank
def test_speakers_are_enrolled_beside_a_shared_adapter_as_speakers(options, known, settings):
    made = settings(shared=True, max_epochs=1)
    train_adapters(made, known.parent / "all", device="cpu")
    enroll.enroll(replace(options, exp=known.parent / "all", start=None), device="cpu")
    assert read(known.parent / "all").tasks == (SHARED, NEW)


@pytest.mark.parametrize("entry", ["table", "space"], indirect=True)
@pytest.mark.parametrize(
    ("where", "towards"), [("mean", "zero"), ("mean", "start"), ("new", "start"), ("nearest", "start")]
)
def test_weights_decay_towards_zero_or_where_each_speaker_started(
    options, known, base, corpus, where, towards
):
    # a step leaves 1 - lr weight_decay = 0.01 of the distance, and moves weights by 1e-4 at most
    strong = ("lr=0.1", "weight_decay=9.9", "clip_norm=1e-3", "optimizer=sgd", "schedule=constant")
    words = (*LAST, *(f"train.{word}" for word in strong), f"train.decay_towards={towards}")
    examples = only(read_examples(corpus / "dump/train", base), NEW)
    started = enroll.start(checkpoint.restore(read(known), base, known), examples, where, seed=0)
    enroll.enroll(replace(options, start=where, overrides=words), device="cpu")
    for name, table in task_parameters(started):
        expected = table[0] if towards == "start" else torch.zeros_like(table[0])
        torch.testing.assert_close(read(known).weights[name][2], expected, atol=2e-4, rtol=0)
