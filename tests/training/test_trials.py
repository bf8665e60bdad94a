"""Trials: what they choose, for whom, and that the run after them is the one that was chosen."""

import copy
from dataclasses import replace

import pytest
import torch

from adaptkit.errors import ConfigError
from adaptkit.training import trials
from adaptkit.training.standing import WHOLE
from tests.fixtures.models import SPEAKERS

OPTIONS = {"max_epochs": 3, "warmup_steps": 0, "valid_metric": "loss"}
RATES = (0.002, 0.02)
FOLDS = {"folds": 2, "schedule": "constant", "batch_frames": 10**6, **OPTIONS}


@pytest.fixture
def fit():
    """Run trials and what follows them."""
    return lambda run, *, resume=False: trials.fit(run.adapted, run.plan, resume=resume)


@pytest.fixture
def only(new_run):
    """Make a run without validation, and let a speaker have a few utterances only."""

    def make(name="run", *, most=None, **options):
        run, most, seen = new_run(name, **options), most or {}, dict.fromkeys(SPEAKERS, 0)
        left_out = set()
        for utterance in run.plan.train.data.utterances:
            seen[utterance.task] += 1
            if seen[utterance.task] > most.get(utterance.task, 99):
                left_out.add(utterance.utt_id)
        run.plan = replace(run.plan, train=run.plan.train.without(left_out), valid=None)
        return run

    return make


def rows(weights, task):
    return {name: weight[SPEAKERS.index(task)] for name, weight in weights.items()}


# a grid of learning rates


def test_each_speaker_has_the_weights_of_its_best_rate(new_run, fit, assert_same):
    run, alone = new_run(lr=RATES, **OPTIONS), [new_run(f"lr{lr}", lr=lr, **OPTIONS) for lr in RATES]
    state = fit(run)
    ended = [(each.fit(), each) for each in alone]
    for task in SPEAKERS:
        best, which = min((own.standings[task].best[0], place) for place, (own, _) in enumerate(ended))
        assert_same(rows(run.weights, task), rows(alone[which].weights, task))
        assert state.choices[task].best == pytest.approx(best[:2])
        assert state.choices[task].lr in (RATES[which], 0)


@pytest.mark.parametrize("kind", ["residual", "hra"])
def test_one_rate_for_all_is_that_of_the_best_run(new_run, fit, assert_same, kind):
    options = {"kind": kind, "select": "all", **OPTIONS}
    run, alone = new_run(lr=RATES, **options), [new_run(f"lr{lr}", lr=lr, **options) for lr in RATES]
    state = fit(run)
    ended = [(each.fit().standings[WHOLE].best[0], place) for place, each in enumerate(alone)]
    best, which = min(ended)
    assert_same(run.weights, alone[which].weights)
    assert state.choices[WHOLE].best == pytest.approx(best[:2])
    assert {state.choices[task].lr for task in SPEAKERS} == {RATES[which]}


def test_where_no_rate_gains_enough_the_start_is_kept(new_run, fit, assert_same, caplog):
    run = new_run(lr=RATES, min_gain=0.9, **OPTIONS)
    start = copy.deepcopy(run.adapted.adapters.state_dict())
    caplog.set_level("INFO")
    state = fit(run)
    assert_same(run.weights, start)
    assert state.list_unimproved(SPEAKERS) == list(SPEAKERS)
    assert "chosen per speaker by loss: 3 speakers: the start for 3" in caplog.text


def test_speakers_without_validation_utterances_have_the_last_weights_of_the_rate_for_all(
    new_run, fit, assert_same
):
    def make(name, lr):
        run = new_run(name, lr=lr, **OPTIONS)
        valid = run.plan.valid.without([u.utt_id for u in run.plan.valid.data.utterances if u.task == "spk2"])
        run.plan = replace(run.plan, valid=valid)
        return run

    run = make("run", RATES)
    state = fit(run)
    choice = state.choices["spk2"]
    alone = make("alone", choice.lr)
    alone.fit()
    assert (choice.lr, choice.epochs, choice.best) == (state.choices[WHOLE].lr, 3, [])
    assert_same(rows(run.weights, "spk2"), rows(alone.weights, "spk2"))


def test_without_trials_all_speakers_can_have_the_weights_of_the_best_epoch_for_all(new_run):
    run = new_run(select="all", lr=0.02, **OPTIONS)
    state = run.fit()
    best = min([event["loss"], event["step"]] for event in run.events("valid"))
    assert state.standings == {WHOLE: state.standings[WHOLE]}
    assert [state.standings[WHOLE].best[0][i] for i in (0, 2)] == best
    assert run.written[-1][0] == best[1] > 0


def test_a_smaller_gain_than_asked_for_keeps_the_start_also_without_trials(new_run):
    states = [new_run(str(gain), lr=0.02, min_gain=gain, **OPTIONS).fit() for gain in (0.0, 0.9)]
    assert [len(state.list_unimproved(SPEAKERS)) for state in states] == [0, 3]


def test_a_warm_up_longer_than_a_speakers_training_is_warned_of(new_run, fit, caplog):
    fit(new_run("long", batch_frames=10**6, **{**OPTIONS, "warmup_steps": 3}))
    fit(new_run("short", batch_frames=10**6, **{**OPTIONS, "warmup_steps": 2}))
    said = "long: spk1, spk10, spk2: take at most 3 steps, all in the warm-up of train.warmup_steps=3"
    assert [said in message for message in caplog.messages if "warm-up" in message] == [True]


# folds


def test_each_speaker_is_trained_on_all_utterances_for_its_epochs_at_its_rate(only, fit):
    run = only(lr=RATES, **FOLDS)
    state = fit(run)
    chosen = {task: choice for task, choice in state.choices.items() if choice.epochs and task}
    for task, choice in chosen.items():
        alone = only(task, **{**FOLDS, "folds": None, "lr": choice.lr, "max_epochs": choice.epochs})
        alone.fit()
        for name, weight in rows(run.weights, task).items():
            torch.testing.assert_close(weight, rows(alone.weights, task)[name], atol=1e-4, rtol=1e-3)
    assert len(chosen) == 2


def test_a_speaker_for_whom_no_epoch_was_best_keeps_the_start(only, fit, assert_same):
    run = only(lr=RATES, **FOLDS)
    start = copy.deepcopy(run.adapted.adapters.state_dict())
    state = fit(run)
    assert state.list_unimproved(SPEAKERS) == [task for task in SPEAKERS if not state.choices[task].epochs]
    for task in state.list_unimproved(SPEAKERS):
        assert_same(rows(run.weights, task), rows(start, task))


def test_the_rates_of_the_last_run_are_those_of_the_trials(only, fit):
    run = only(lr=0.02, **{**FOLDS, "schedule": "linear", "max_epochs": 4, "warmup_steps": 2})
    state = fit(run)
    rates = [event["lr"] for event in run.events("step")]
    log = run.plan.folder / "trials/lr_0.02_fold_1/train.jsonl"
    trial = replace(run, plan=replace(run.plan, folder=log.parent))
    assert rates == [event["lr"] for event in trial.events("step")][: len(rates)]
    assert len(rates) == max(choice.epochs for choice in state.choices.values())


def test_a_speaker_of_a_single_utterance_follows_the_choice_for_all(only, fit):
    state = fit(only(most={"spk2": 1}, lr=RATES, **FOLDS))
    chosen = [(state.choices[name].lr, state.choices[name].epochs) for name in ("spk2", WHOLE)]
    assert chosen[0] == chosen[1]
    assert state.choices["spk2"].best == []


def test_where_nothing_can_be_held_out_all_epochs_are_trained_at_the_rate(only, fit, caplog, assert_same):
    most = dict.fromkeys(SPEAKERS, 1)
    run, plain = only(most=most, lr=0.01, **FOLDS), only("plain", most=most, **{**FOLDS, "folds": None})
    assert fit(run).epoch == 3
    plain.fit()
    assert_same(run.weights, plain.weights)
    assert "no utterance can be held out; the last weights are kept" in caplog.text
    with pytest.raises(ConfigError, match=r"no speaker has a second utterance to hold out.*set train\.lr"):
        fit(only("grid", most=most, lr=RATES, **FOLDS))
