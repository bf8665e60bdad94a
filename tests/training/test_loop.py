"""The training loop: what a step does, what cannot be trained, when it stops, and what it keeps."""

import copy
import math
from dataclasses import replace

import kaldiio
import numpy as np
import pytest
import torch

from adaptkit.errors import DataError, TrainingError
from adaptkit.features.archive import load_feats
from adaptkit.tensors import read_tensors
from adaptkit.training.standing import WHOLE
from tests.fixtures.models import SPEAKERS


def gradients(run):
    """Each task's gradient (K, P) in the only step so far: AdamW's first moment is a tenth of it."""
    return run.saved()["optimizer.moments"][0] * 10


def with_feats(examples, tmp_path, utt_id, change):
    """Write the features of one utterance anew, changed."""
    feats = load_feats(examples.data.feats[utt_id]).numpy()
    change(feats)
    kaldiio.save_ark(str(tmp_path / "bad.ark"), {utt_id: feats}, scp=str(tmp_path / "bad.scp"))
    location = (tmp_path / "bad.scp").read_text().split()[1]
    return replace(examples, data=replace(examples.data, feats={**examples.data.feats, utt_id: location}))


# what a step does


def test_accumulated_batches_are_one_bigger_batch(new_run):
    one_batch = new_run("one", max_epochs=1, batch_frames=10**6, clip_norm=None, is_trained=True)
    accumulated = new_run("many", max_epochs=1, accumulate=99, clip_norm=None, is_trained=True)
    one_batch.fit()
    accumulated.fit()
    (one,), (many,) = one_batch.events("step"), accumulated.events("step")
    assert many["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert many["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
    torch.testing.assert_close(gradients(accumulated), gradients(one_batch), atol=1e-4, rtol=1e-4)


def test_accumulated_batches_are_one_bigger_batch_for_weights_that_tasks_share(new_run):
    options = {"kind": "hra", "max_epochs": 1, "clip_norm": None, "is_trained": True}
    one_batch = new_run("one", batch_frames=10**6, **options)
    accumulated = new_run("many", accumulate=99, **options)
    one_batch.fit()
    accumulated.fit()
    expected, found = one_batch.saved(), accumulated.saved()
    names = [name for name in expected if name.endswith("exp_avg")]
    assert len(names) == 3  # matrix, bias and recurrent factor of the controller
    for name in names:
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-4)


def test_the_gradient_of_each_task_is_clipped_and_the_largest_norm_before_is_noted(new_run):
    options = {"max_epochs": 1, "batch_frames": 10**6, "is_trained": True}
    free, bound = new_run("free", clip_norm=None, **options), new_run("bound", clip_norm=0.01, **options)
    free.fit()
    bound.fit()
    torch.testing.assert_close(gradients(bound).norm(dim=1), torch.full((3,), 0.01), rtol=1e-3, atol=0)
    largest = float(gradients(free).norm(dim=1).max())
    assert [run.events("step")[0]["grad_norm"] for run in (free, bound)] == pytest.approx([largest] * 2)


def test_learning_rates_follow_the_schedule_to_the_last_step(new_run):
    run = new_run(max_epochs=5, warmup_steps=2, lr=0.01, batch_frames=10**6)
    run.fit()
    rates = [event["lr"] for event in run.events("step")]  # all tasks are in every step
    assert rates == pytest.approx([0.005, 0.01, 0.01, 0.01 * 2 / 3, 0.01 / 3])


def test_the_first_step_of_a_warm_up_moves_weights_by_its_small_rate(new_run):
    run = new_run(max_epochs=1, batch_frames=10**6, lr=0.02, warmup_steps=10, is_trained=True)
    before = copy.deepcopy(run.adapted.adapters.state_dict())
    run.fit()
    moved = torch.cat([(run.weights[name] - tensor).abs().flatten() for name, tensor in before.items()])
    assert float(moved.max()) == pytest.approx(0.002, rel=1e-3)  # AdamW's first step is as long as its rate


def test_every_step_and_validation_is_noted(new_run, examples):
    run = new_run(max_epochs=2)
    state = run.fit()
    steps, valids = run.events("step"), run.events("valid")
    num_steps = [len(run.plan.steps(run.adapted.adapters).of_epoch(epoch)) for epoch in range(2)]
    assert [event["step"] for event in steps] == list(range(1, sum(num_steps) + 1))
    assert [event["epoch"] for event in steps] == [0] * num_steps[0] + [1] * num_steps[1]
    places = [(event["step"], event["epoch"]) for event in valids]
    assert places == [(0, 0), (num_steps[0], 1), (state.step, 2)]
    assert valids[0]["speakers"] == 3
    assert valids[0]["quartiles"] == sorted(valids[0]["quartiles"])
    assert {row["speaker"] for row in run.table()} == {"spk1", "spk10", "spk2"}
    assert all(math.isfinite(event["grad_norm"]) and event["seconds"] >= 0 for event in steps)


def test_validation_can_be_rarer_but_never_misses_the_last_epoch(new_run):
    run = new_run(max_epochs=3, valid_every=2)
    run.fit()
    assert [event["epoch"] for event in run.events("valid")] == [0, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_trains_float32_weights_to_about_the_same(new_run, precision):
    exact, coarse = (
        new_run(name, batch_frames=10**6, max_epochs=8, precision=name) for name in ("float32", precision)
    )
    exact.fit()
    coarse.fit()
    assert all(tensor.dtype == torch.float32 for tensor in coarse.weights.values())
    assert coarse.events("step")[0]["loss"] == pytest.approx(exact.events("step")[0]["loss"], rel=0.02)
    norms = [event["grad_norm"] for event in coarse.events("step") if event["grad_norm"]]
    num_skipped = 8 - len(norms)  # float16 finds its scale in the first few steps
    assert norms[0] == pytest.approx(exact.events("step")[0]["grad_norm"], rel=0.1)
    expected = exact.events("valid")[7 - num_skipped]["loss"]
    assert coarse.events("valid")[-1]["loss"] == pytest.approx(expected, rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_loaded_by_other_processes_train_the_same(new_run, num_workers, assert_same):
    run, expected = new_run("there", num_workers=num_workers), new_run("here")
    run.fit()
    expected.fit()
    assert_same(run.weights, expected.weights)


def test_training_leaves_the_base_as_it_was(new_run, base, assert_same):
    before = copy.deepcopy(base.model.state_dict())
    new_run().fit()
    assert_same(before, base.model.state_dict())


# what cannot be trained


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_and_names_the_utterance(new_run, examples, tmp_path, value):
    def spoil(feats):
        feats[10, 3] = value

    run = new_run(plan={"train": with_feats(examples, tmp_path, "spk10-03", spoil)})
    expected = r"the loss of step [123] is nan, caused by spk10-03; check their audio and text"
    with pytest.raises(TrainingError, match=expected):
        run.fit()


def test_a_validation_set_that_is_not_finite_is_refused(new_run, examples, tmp_path):
    broken = with_feats(examples, tmp_path, "spk2-01", lambda feats: np.copyto(feats, np.nan))
    run = new_run(plan={"valid": broken})
    with pytest.raises(DataError, match="the scores of spk2-01 are not finite"):
        run.fit()


# when it stops, and what it keeps


def test_training_stops_when_validation_has_not_improved_for_long(new_run):
    run = new_run(max_epochs=50, lr=1e-12, patience=2, warmup_steps=0)
    state = run.fit()
    epochs = {event["step"]: event["epoch"] for event in run.events("valid")}
    best = [epochs[standing.best[0][2]] for standing in state.standings.values()]
    assert state.is_done
    assert state.stopped == {"spk1", "spk10", "spk2"}
    assert state.epoch == max(best) + 2 < 50


def test_what_is_shared_is_written_at_its_best_validation_and_no_later_one(new_run):
    run = new_run(kind="hra", max_epochs=4, lr=0.002)
    state = run.fit()
    ranked = sorted([event["wer"], event["loss"], event["step"]] for event in run.events("valid"))
    assert run.written[-1][0] == ranked[0][2] > 0
    assert state.standings[WHOLE].best == ranked[:1]
    assert state.list_unimproved(SPEAKERS) == []


def test_what_is_shared_stays_as_at_the_start_where_no_step_improves_it(new_run, assert_same):
    run = new_run(kind="hra", max_epochs=3, average=2, lr=0.05)
    start = copy.deepcopy(run.adapted.adapters.state_dict())
    state = run.fit()
    assert [step for step, _ in run.written] == [0]
    assert_same(run.weights, start)
    assert state.list_unimproved(SPEAKERS) == list(SPEAKERS)
    assert run.events("valid")[-1]["unimproved"] == len(SPEAKERS)


def test_validating_the_start_changes_nothing_that_follows(new_run, assert_same):
    with_start, without = (new_run(name, max_epochs=2, lr=0.005) for name in ("with", "without"))
    without.plan = replace(without.plan, valid=None)
    with_start.fit()
    without.fit()
    losses = [[event["loss"] for event in run.events("step")] for run in (with_start, without)]
    assert losses[0] == losses[1]
    kept = {name: t for name, t in with_start.saved().items() if not name.startswith("best.")}
    assert_same(kept, {name: t for name, t in without.saved().items() if not name.startswith("best.")})


@pytest.fixture
def averaging(new_run):
    """A run of shared weights that averages its three best validations, with those kept when it finished."""

    def make(**options):
        def finish(state):
            paths = [folder / f"step_{step}.safetensors" for step in sorted(state.kept_steps)]
            kept.extend(read_tensors(path)[0] for path in paths)

        kept = []
        run = new_run(kind="hra", max_epochs=4, average=3, plan={"finish": finish}, **options)
        folder = run.plan.folder / "checkpoints"
        run.fit()
        return run, kept

    return make


def test_the_average_of_the_best_is_written_at_the_end(averaging):
    run, kept = averaging(lr=0.002)
    assert len(kept) == 3
    for name, tensor in run.weights.items():
        torch.testing.assert_close(tensor, sum(weights[name] for weights in kept) / 3)


def test_a_validation_among_the_best_few_is_kept_though_it_is_not_the_best(averaging):
    run, kept = averaging(lr=1e-12)
    assert [step for step, _ in run.written] == [0]  # no other surpassed the start
    assert len(kept) == 3


def test_a_finished_run_keeps_the_checkpoints_that_a_longer_one_needs(new_run):
    run = new_run(max_epochs=3, average=2, lr=0.002)
    steps = run.fit().kept_steps
    names = {path.name for path in (run.plan.folder / "checkpoints").iterdir()}
    assert names == {f"step_{step}.safetensors" for step in steps}


def test_a_run_that_early_stopping_ended_keeps_no_checkpoints(new_run):
    run = new_run(max_epochs=9, average=2, lr=1e-30, patience=2)
    run.fit()
    names = sorted(path.name for path in run.plan.folder.iterdir())
    assert names == ["state.safetensors", "train.jsonl", "validation.tsv"]
