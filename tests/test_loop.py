"""The training loop: what a step does, when it stops, what it keeps, and that it can be stopped anywhere."""

import copy
import json
import math
from dataclasses import dataclass, field, replace

import kaldiio
import numpy as np
import pytest
import torch
from torch import Tensor

from adaptkit import checkpoint
from adaptkit.errors import CheckpointError, DataError, TrainingError
from adaptkit.features import load_feats
from adaptkit.loop import Plan, fit
from adaptkit.objective import Objective

pytestmark = pytest.mark.espnet
IDENTITY = {"train.lr": 0.01, "base model": "9f3a"}


class Stopped(Exception):
    """What ends a run in the middle."""


@dataclass
class Run:
    """A run of residual adapters in a folder, and what it wrote."""

    objective: Objective
    plan: Plan
    written: list[tuple[int, dict[str, Tensor]]] = field(default_factory=list)  # step, weights

    def fit(self, *, resume=False):
        return fit(self.objective, self.plan, resume=resume)

    @property
    def weights(self):
        return self.written[-1][1]

    def events(self, kind):
        lines = (self.plan.folder / "train.jsonl").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == kind]

    def state(self):
        """The tensors of the saved state: optimizer.* and weights.*."""
        return checkpoint.read_tensors(self.plan.folder / "state.safetensors")[0]


@pytest.fixture
def new_run(base, examples, new_stack, settings, tmp_path):
    """Prepare a run; keywords are options of its training."""

    def make(name="run", train=None, stop=None, finish=None, is_trained=False, identity=IDENTITY, **options):
        def write(weights, step):
            run.written.append((step, copy.deepcopy(dict(weights))))
            if stop is not None and step >= stop:
                raise Stopped

        stack = new_stack(base, bottleneck=4, is_trained=is_trained)
        chosen = settings(**options).train
        plan = Plan(
            train or examples, examples, tmp_path / name, chosen, identity, write, finish or (lambda s: None)
        )
        run = Run(Objective(base, stack), plan)
        return run

    return make


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def moments(run):
    """The gradient of the only step so far: AdamW's first moment is a tenth of it."""
    return {name: tensor * 10 for name, tensor in run.state().items() if name.endswith("exp_avg")}


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
    expected, found = moments(one_batch), moments(accumulated)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-4, rtol=1e-4)


def test_gradients_are_clipped_to_their_norm_and_the_norm_before_is_noted(new_run):
    run = new_run(max_epochs=1, batch_frames=10**6, clip_norm=0.01, is_trained=True)
    run.fit()
    norm = torch.stack([gradient.norm() for gradient in moments(run).values()]).norm()
    assert float(norm) == pytest.approx(0.01, rel=1e-3)
    assert run.events("step")[0]["grad_norm"] > 1


def test_learning_rates_follow_the_schedule_to_the_last_step(new_run):
    run = new_run(max_epochs=3, warmup_steps=2, lr=0.01)
    run.fit()
    rates = [event["lr"] for event in run.events("step")]
    left = len(rates) - 2
    expected = [0.005, 0.01, *(0.01 * (left - passed) / left for passed in range(left))]
    assert rates == pytest.approx(expected)


def test_every_step_and_validation_is_noted(new_run, examples):
    run = new_run(max_epochs=2)
    state = run.fit()
    steps, valids = run.events("step"), run.events("valid")
    num_batches = [len(run.plan.batches(epoch)) for epoch in range(2)]
    assert [event["step"] for event in steps] == list(range(1, sum(num_batches) + 1))
    assert [event["epoch"] for event in steps] == [0] * num_batches[0] + [1] * num_batches[1]
    assert [(event["step"], event["epoch"]) for event in valids] == [(num_batches[0], 1), (state.step, 2)]
    assert set(valids[0]["by_task"]) == {"spk1", "spk10", "spk2"}
    assert all(math.isfinite(event["grad_norm"]) and event["seconds"] >= 0 for event in steps)


def test_validation_can_be_rarer_but_never_misses_the_last_epoch(new_run):
    run = new_run(max_epochs=3, valid_every=2)
    run.fit()
    assert [event["epoch"] for event in run.events("valid")] == [2, 3]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_trains_float32_weights_to_about_the_same(new_run, precision):
    exact, coarse = new_run("exact"), new_run("coarse", precision=precision)
    exact.fit()
    coarse.fit()
    assert all(tensor.dtype == torch.float32 for tensor in coarse.weights.values())
    assert coarse.events("step")[0]["loss"] == pytest.approx(exact.events("step")[0]["loss"], rel=0.02)
    assert coarse.events("valid")[-1]["loss"] == pytest.approx(exact.events("valid")[-1]["loss"], rel=0.1)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_loaded_by_other_processes_train_the_same(new_run, num_workers):
    run, expected = new_run("there", num_workers=num_workers), new_run("here")
    run.fit()
    expected.fit()
    assert_equal(run.weights, expected.weights)


def test_training_leaves_the_base_as_it_was(new_run, base):
    before = copy.deepcopy(base.model.state_dict())
    new_run().fit()
    assert_equal(before, base.model.state_dict())


# what cannot be trained


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_and_names_the_utterance(new_run, examples, tmp_path, value):
    def spoil(feats):
        feats[10, 3] = value

    run = new_run(train=with_feats(examples, tmp_path, "spk10-03", spoil))
    expected = r"the loss of step [123] is nan, from these alone: spk10-03\. Look at audio and text"
    with pytest.raises(TrainingError, match=expected):
        run.fit()


def test_a_validation_set_that_is_not_finite_is_refused(new_run, examples, tmp_path):
    broken = with_feats(examples, tmp_path, "spk2-01", lambda feats: np.copyto(feats, np.nan))
    run = new_run()
    run.plan = replace(run.plan, valid=broken)
    with pytest.raises(DataError, match="the scores of spk2-01 are not finite"):
        run.fit()


# when it stops, and what it keeps


def test_training_stops_when_validation_has_not_improved_for_long(new_run):
    run = new_run(max_epochs=50, lr=1e-12, patience=2, warmup_steps=0)
    state = run.fit()
    assert state.is_done
    best = [event["epoch"] for event in run.events("valid") if event["step"] == state.best[0][2]]
    assert state.epoch == best[0] + 2


def test_the_best_validation_is_written_and_no_later_one(new_run):
    run = new_run(max_epochs=4, lr=0.05)
    run.fit()
    ranked = sorted((event["wer"], event["loss"], event["step"]) for event in run.events("valid"))
    assert run.written[-1][0] == ranked[0][2]


def test_the_average_of_the_best_is_written_at_the_end(new_run):
    kept = []

    def finish(state):
        paths = [folder / f"step_{int(step)}.safetensors" for _, _, step in state.best]
        kept.extend(checkpoint.read_tensors(path)[0] for path in paths)

    run = new_run(max_epochs=4, average=3, finish=finish)
    folder = run.plan.folder / "checkpoints"
    run.fit()
    assert len(kept) == 3
    for name, tensor in run.weights.items():
        torch.testing.assert_close(tensor, sum(weights[name] for weights in kept) / 3)


def test_a_finished_run_keeps_no_checkpoints(new_run):
    run = new_run(max_epochs=3, average=2)
    run.fit()
    assert sorted(path.name for path in run.plan.folder.iterdir()) == ["state.safetensors", "train.jsonl"]


# stopped and resumed


@pytest.fixture
def whole(new_run):
    """A run that nothing stopped, averaging two of its three validations."""
    run = new_run("whole", max_epochs=3, average=2, save_every_steps=2)
    run.fit()
    return run


@pytest.mark.parametrize("stop", [1, 4, 7])
def test_a_run_stopped_after_writing_weights_but_before_its_state_resumes_to_the_same(new_run, whole, stop):
    options = {"max_epochs": 3, "average": 2, "save_every_steps": 2}
    with pytest.raises(Stopped):
        new_run("run", stop=stop, **options).fit()
    resumed = new_run("run", **options)
    resumed.fit(resume=True)
    assert_equal(resumed.weights, whole.weights)
    assert_equal(resumed.state(), whole.state())


def test_a_run_stopped_after_its_average_resumes_to_the_same(new_run, whole):
    def stop(state):
        raise Stopped

    options = {"max_epochs": 3, "average": 2, "save_every_steps": 2}
    with pytest.raises(Stopped):
        new_run("run", finish=stop, **options).fit()
    resumed = new_run("run", **options)
    resumed.fit(resume=True)
    assert_equal(resumed.weights, whole.weights)


def test_steps_done_again_are_noted_once(new_run, whole):
    options = {"max_epochs": 3, "average": 2, "save_every_steps": 2}
    with pytest.raises(Stopped):
        new_run("run", stop=4, **options).fit()
    resumed = new_run("run", **options)
    resumed.fit(resume=True)
    timeless = [
        [{key: value for key, value in event.items() if "seconds" not in key} for event in run.events(kind)]
        for run in (resumed, whole)
        for kind in ("step", "valid")
    ]
    assert timeless[:2] == timeless[2:]


def test_a_run_stopped_before_its_first_save_starts_over(new_run):
    expected = new_run("whole", max_epochs=1)
    expected.fit()
    with pytest.raises(Stopped):
        new_run("run", stop=1, max_epochs=1).fit()
    again = new_run("run", max_epochs=1)
    again.fit()
    assert_equal(again.weights, expected.weights)
    assert [event["step"] for event in again.events("step")] == [e["step"] for e in expected.events("step")]


def test_resuming_a_finished_run_does_nothing(new_run):
    new_run("run").fit()
    again = new_run("run", stop=0)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in again.plan.folder.iterdir()}
    state = again.fit(resume=True)
    assert state.is_done
    assert not again.written
    assert before == {
        path: (path.stat().st_mtime_ns, path.read_bytes()) for path in again.plan.folder.iterdir()
    }


def test_a_second_run_in_the_same_folder_is_refused(new_run):
    new_run("run").fit()
    with pytest.raises(CheckpointError, match="run: holds a run already; --resume goes on with it"):
        new_run("run").fit()


def test_resuming_with_other_settings_is_refused_with_both_values(new_run):
    new_run("run").fit()
    other = new_run("run", identity={**IDENTITY, "train.lr": 0.02})
    with pytest.raises(
        CheckpointError, match=r"by a run with another train\.lr \(0\.01, now 0\.02\); resume"
    ):
        other.fit(resume=True)


def test_a_damaged_state_is_refused(new_run):
    run = new_run("run")
    run.fit()
    path = run.plan.folder / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="state.safetensors: damaged or truncated"):
        new_run("run").fit(resume=True)


def test_resuming_nothing_starts(new_run):
    run = new_run("run", max_epochs=1)
    assert run.fit(resume=True).is_done
