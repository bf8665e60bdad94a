"""One job for many speakers trains what a job of each would: weights, steps, schedules, and when to stop."""

import copy
import json
import math
import zlib
from dataclasses import replace

import pytest
import torch

from adaptkit import experiment
from adaptkit.adapters.catalog import available
from adaptkit.adapters.per_task import shared_parameters, task_parameters
from adaptkit.tensors import read_tensors
from adaptkit.training import run as training_run
from adaptkit.training.state import State

pytestmark = pytest.mark.slow

TASKS = ("spk1", "spk10", "spk2")
# a pair of utterances of one speaker fits into a batch and two pairs do not, so each passes the model alone,
# and every step holds a pair of each
ALONE = {"batch_frames": 150, "task_utterances": 2, "accumulate": 3}
EPOCH = 3  # steps of one: 6 utterances of each speaker
# under these spk2 is best after epoch 1 and spk10 after 3, while spk1 learns to the end
STOPPING = {**ALONE, "max_epochs": 5, "patience": 1, "lr": 0.005, "schedule": "constant", "spoils": True}
FEWER = {"spk10-00", "spk10-01", "spk10-04", "spk10-05", "spk2-02", "spk2-03"}  # leaves 2 of spk10, 4 of spk2


@pytest.fixture
def job(new_run):
    """Prepare a run of tasks that start from bad weights, each its own; what they would share is frozen."""

    def make(name, *, tasks=TASKS, valid=False, without=(), spoils=False, **options):
        run = new_run(name, tasks=tasks, **options)
        data = run.plan.train.without(without)
        run.plan = replace(run.plan, train=data, valid=data if valid else None)
        for _, parameter in shared_parameters(run.adapted.adapters):
            parameter.requires_grad_(False)
        for name, parameter in task_parameters(run.adapted.adapters):
            for index, task in enumerate(tasks if spoils else ()):
                generator = torch.Generator().manual_seed(zlib.crc32(f"{name} {task}".encode()))
                parameter.data[index].normal_(std=0.3, generator=generator)
        return run

    return make


@pytest.fixture
def one_and_each(job):
    """Train all tasks in one job, and each in its own; give that run, and of every task its own run."""

    def train_all(**options):
        runs = [job("one", **options), *(job(task, tasks=(task,), **options) for task in TASKS)]
        for run in runs:
            run.fit()
        return runs[0], dict(zip(TASKS, runs[1:], strict=True))

    return train_all


def slices(run, task, weights=None):
    """The weights of a task, of those last written or of others."""
    index = run.adapted.adapters.tasks.index(task)
    weights = run.weights if weights is None else weights
    return {name: weights[name][index] for name, _ in task_parameters(run.adapted.adapters)}


def moments_of(run, task):
    return run.saved()["optimizer.moments"][:, run.adapted.adapters.tasks.index(task)]


def steps_of(run):
    return dict(zip(run.adapted.adapters.tasks, run.saved()["optimizer.steps"].tolist(), strict=True))


def standings_of(folder):
    return read_tensors(folder / "state.safetensors")[1]["state"]["standings"]


def same_but_rounded(standing):
    """A standing to compare with one whose validation had other batches, and other rounding errors."""
    best = [pytest.approx(entry, rel=1e-5) for entry in standing["best"]]
    return {**standing, "best": best, "last": pytest.approx(standing["last"], rel=1e-5)}


# weights


@pytest.mark.parametrize("kind", available())
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_one_job_trains_the_bits_of_many(one_and_each, assert_same, kind, optimizer):
    options = {**ALONE, "max_epochs": 2, "lr": 0.05, "weight_decay": 0.1}
    one, each = one_and_each(kind=kind, optimizer=optimizer, **options)
    for task, own in each.items():
        assert steps_of(one)[task] == steps_of(own)[task] == 2 * EPOCH
        assert_same(slices(one, task), slices(own, task))
        assert optimizer == "sgd" or torch.equal(moments_of(one, task), moments_of(own, task))


@pytest.mark.parametrize("kind", available())
def test_one_job_of_mixed_batches_trains_the_weights_of_many_to_rounding(one_and_each, kind):
    options = {"batch_frames": 10**6, "task_utterances": 4, "max_epochs": 3, "weight_decay": 0.1}
    one, each = one_and_each(kind=kind, optimizer="sgd", lr=0.05, **options)
    for task, own in each.items():
        for name, expected in slices(own, task).items():
            torch.testing.assert_close(slices(one, task)[name], expected, atol=2e-5, rtol=1e-4)


def test_one_job_of_mixed_batches_trains_the_weights_of_many_to_rounding_with_adamw(one_and_each):
    one, each = one_and_each(batch_frames=10**6, task_utterances=4, max_epochs=3, lr=0.01)
    for task, own in each.items():
        for name, expected in slices(own, task).items():
            torch.testing.assert_close(slices(one, task)[name], expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("kind", available())
def test_a_speaker_without_utterances_keeps_every_bit_through_a_run(new_run, assert_same, kind):
    run = new_run(kind=kind, batch_frames=10**6, max_epochs=3, weight_decay=0.1)
    others = run.plan.train.without({f"spk10-{number:02}" for number in range(6)})
    run.plan = replace(run.plan, train=others, valid=None)
    before = copy.deepcopy(run.adapted.adapters.state_dict())
    run.fit()
    assert_same(slices(run, "spk10"), slices(run, "spk10", before))
    assert not moments_of(run, "spk10").any()
    assert steps_of(run) == {"spk1": 3, "spk10": 0, "spk2": 3}
    moved = [
        not torch.equal(own, slices(run, "spk2", before)[name]) for name, own in slices(run, "spk2").items()
    ]
    assert any(moved)


# steps, schedules and how often a speaker comes


@pytest.mark.parametrize("schedule", ["linear", "cosine", "inverse_sqrt"])
def test_speakers_with_few_utterances_warm_up_and_decay_over_steps_of_their_own(
    one_and_each, assert_same, schedule
):
    options = {**ALONE, "max_epochs": 4, "warmup_steps": 3, "without": FEWER, "schedule": schedule}
    one, each = one_and_each(**options)
    assert steps_of(one) == {"spk1": 12, "spk10": 4, "spk2": 8}
    for task, own in each.items():
        assert_same(slices(one, task), slices(own, task))


def test_a_temperature_balances_the_steps_of_speakers(job):
    found = []
    for name, temperature in (("proportional", 1.0), ("equal", 1e9)):
        run = job(name, without=FEWER, max_epochs=2, temperature=temperature, **ALONE)
        run.fit()
        found.append(steps_of(run))
    assert found == [{"spk1": 6, "spk10": 2, "spk2": 4}, dict.fromkeys(TASKS, 4)]  # 12 utterances in all


# when to stop, and what is kept


def test_a_speaker_stops_when_its_own_job_would_and_others_go_on(one_and_each, assert_same):
    one, each = one_and_each(valid=True, **STOPPING)
    assert [event["stopped"] for event in one.events("valid")] == [0, 0, 1, 1, 2, 2]
    assert {row["speaker"] for row in one.table() if row["stopped"] == "yes"} == {"spk10", "spk2"}
    assert steps_of(one) == {"spk1": 5 * EPOCH, "spk10": 4 * EPOCH, "spk2": 2 * EPOCH}
    for task, own in each.items():
        assert standings_of(one.plan.folder)[task] == same_but_rounded(standings_of(own.plan.folder)[task])
        assert_same(slices(one, task), slices(own, task))


def test_what_is_written_of_a_speaker_is_as_of_its_own_best_validation(job, assert_same):
    one = job("one", valid=True, **STOPPING)
    state = one.fit()
    for task, epochs in {"spk10": 3, "spk2": 1}.items():
        until = job(task, **{**STOPPING, "max_epochs": epochs})
        until.fit()
        assert state.standings[task].best[0][2] == epochs * EPOCH
        assert_same(slices(one, task), slices(until, task))


def test_a_speaker_that_has_stopped_is_touched_no_more(job, assert_same):
    one, until = job("one", valid=True, **STOPPING), job("two", **{**STOPPING, "max_epochs": 2})
    one.fit()
    until.fit()
    weights = {name.removeprefix("weights."): tensor for name, tensor in one.saved().items()}
    assert_same(slices(one, "spk2", weights), slices(until, "spk2"))
    assert torch.equal(moments_of(one, "spk2"), moments_of(until, "spk2"))


def test_the_best_few_validations_of_each_speaker_are_averaged(one_and_each, assert_same):
    one, each = one_and_each(valid=True, average=2, **STOPPING)
    for task, own in each.items():
        assert len(standings_of(one.plan.folder)[task]["best"]) == 2
        assert_same(slices(one, task), slices(own, task))


def test_an_average_is_the_mean_of_a_speakers_own_best_two(job):
    one = job("one", valid=True, average=2, **STOPPING)
    one.fit()
    kept = []
    for epochs in (1, 2):  # spk2 stopped after these
        kept.append(job(f"until {epochs}", **{**STOPPING, "max_epochs": epochs}))
        kept[-1].fit()
    first, second = (slices(run, "spk2") for run in kept)
    for name, mean in slices(one, "spk2").items():
        torch.testing.assert_close(mean, (first[name] + second[name]) / 2)


@pytest.mark.parametrize("average", [1, 2])
def test_a_speaker_that_no_step_improves_keeps_the_weights_of_its_start(job, assert_same, average, caplog):
    one = job("one", valid=True, average=average, **{**STOPPING, "lr": 0.01, "max_epochs": 3})
    start = copy.deepcopy(one.adapted.adapters.state_dict())
    state = one.fit()
    assert [event["unimproved"] for event in one.events("valid")] == [3, 1, 1, 1]
    assert [row["speaker"] for row in one.table() if row["unimproved"] == "yes"] == ["spk2"]
    assert state.list_unimproved(TASKS) == ["spk2"]
    assert_same(slices(one, "spk2"), slices(one, "spk2", start))
    assert not any(
        torch.equal(w, slices(one, "spk1", start)[name]) for name, w in slices(one, "spk1").items()
    )
    assert "1 of 3 speakers: no validation was better than that of the start" in caplog.text


def test_the_start_is_averaged_with_nothing(job):
    one = job("one", valid=True, average=9, **{**STOPPING, "lr": 0.01, "max_epochs": 3})
    standings = one.fit().standings
    assert standings["spk1"].averaged == [3 * EPOCH, 2 * EPOCH, EPOCH]
    assert (standings["spk2"].averaged, standings["spk2"].best[0][2]) == ([], 0)


def test_a_speaker_without_utterances_to_validate_on_keeps_its_last_weights(job, assert_same):
    run, last = job("run", valid=True, **STOPPING), job("last", **{**STOPPING})
    without = run.plan.train.without({f"spk2-{number:02}" for number in range(6)})
    run.plan = replace(run.plan, valid=without)
    run.fit()
    last.fit()
    assert_same(slices(run, "spk2"), slices(last, "spk2"))
    assert standings_of(run.plan.folder).keys() == {"spk1", "spk10"}


# resuming


@pytest.mark.parametrize("average", [1, 2])
def test_a_run_in_which_speakers_had_stopped_resumes_to_the_same(job, assert_same, average):
    options = {"valid": True, "average": average, "save_every_steps": 2, **STOPPING}
    whole = job("whole", **options)
    whole.fit()
    for stop in (2 * EPOCH + 1, 4 * EPOCH, math.inf):
        job(f"run_{stop}", stop=stop, **options).fit_until_stopped()
        resumed = job(f"run_{stop}", **options)
        assert isinstance(resumed.fit(resume=True), State)
        assert_same(resumed.weights, whole.weights)
        assert_same(resumed.saved(), whole.saved())
        assert standings_of(resumed.plan.folder) == standings_of(whole.plan.folder)


def test_a_killed_run_in_which_a_speaker_had_stopped_resumes_to_the_same_bytes(
    settings, tmp_path, kill_at, tensors_in, assert_same
):
    made = settings(**ALONE, max_epochs=12, patience=2, lr=0.05, save_every_steps=2)
    experiment.save(made, tmp_path / "tiny.yaml")
    training_run.train_adapters(made, tmp_path / "whole", device="cpu")
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    kill_at(5 * EPOCH + 2, killed, "train", tmp_path / "tiny.yaml", "--exp", killed, "--device", "cpu")
    stopped = [event["stopped"] for event in events(killed) if event["event"] == "valid"][-1]
    assert 0 < stopped < 3
    training_run.train_adapters(made, killed, device="cpu", resume=True)
    paths = [folder / "adapter.safetensors" for folder in (killed, whole)]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert_same(tensors_in(killed), tensors_in(whole))
    assert standings_of(killed) == standings_of(whole)


def events(folder):
    lines = (folder / "train.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]  # the last may be cut short
