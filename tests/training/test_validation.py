"""Validation: its rates and losses, in all and speaker by speaker."""

import math
from dataclasses import replace

import pytest

from adaptkit.errors import CheckpointError
from adaptkit.model.adapted import AdaptedModel
from adaptkit.model.recognise import recognise
from adaptkit.scoring.counts import count_chars, count_words
from adaptkit.training.validation import choose_metric, validate


@pytest.fixture
def adapted(base, new_stack):
    """The tiny Conformer with adapters that say different things."""
    return AdaptedModel(base, new_stack(base, is_trained=True)).eval()


def said(adapted, examples, batch_frames=12000):
    with adapted.hooked():
        return recognise(adapted, examples, batch_frames)


def test_validation_rates_are_those_of_the_decoded_text(adapted, examples):
    hyps = {h.utt_id: h.text for h in said(adapted, examples)}
    with adapted.hooked():
        validation = validate(adapted, examples, 400)
    utterances = examples.data.utterances
    counts = count_words([u.text for u in utterances], [hyps[u.utt_id] for u in utterances])
    errors, words = sum(c.errors for c in counts), sum(len(u.text.split()) for u in utterances)
    assert validation.wer == round(100 * errors / words, 2)
    spk2 = [count.errors for count, u in zip(counts, utterances, strict=True) if u.speaker == "spk2"]
    spk2_words = sum(len(u.text.split()) for u in utterances if u.speaker == "spk2")
    assert validation.by_task["spk2"] == round(100 * sum(spk2) / spk2_words, 2)
    assert (validation.metric, validation.value) == ("wer", validation.wer)


def test_validation_by_characters_is_that_of_the_decoded_text(adapted, examples):
    hyps = {h.utt_id: h.text for h in said(adapted, examples)}
    with adapted.hooked():
        validation = validate(adapted, examples, 400, "cer")
    utterances = [u for u in examples.data.utterances if u.speaker == "spk2"]
    counts = count_chars([u.text for u in utterances], [hyps[u.utt_id] for u in utterances])
    errors, chars = sum(c.errors for c in counts), sum(len(u.text) for u in utterances)
    assert validation.by_task["spk2"] == round(100 * errors / chars, 2)
    assert validation.value == validation.cer != validation.wer


def test_validation_by_loss_decodes_nothing(adapted, examples, monkeypatch):
    monkeypatch.setattr("adaptkit.model.adapted.quick_searcher", None)
    with adapted.hooked():
        validation = validate(adapted, examples, 400, "loss")
    assert (validation.wer, validation.cer, validation.value) == (None, None, validation.loss)
    assert validation.by_task == validation.loss_by_task


def spoken(examples, *texts):
    """Give every utterance one of some texts, in turn."""
    utterances = examples.data.utterances
    changed = tuple(replace(u, text=texts[place % len(texts)]) for place, u in enumerate(utterances))
    return replace(examples, data=replace(examples.data, utterances=changed))


@pytest.mark.parametrize(
    ("texts", "metric"),
    [
        (("你好世界", "好", "今天天气很好"), "cer"),
        (("これはペンです", "A B"), "wer"),  # half of them
        (("สวัสดีชาวโลก",), "cer"),
        (("你 好 世 界",), "wer"),  # already split
        (("ZERO", "ONE"), "wer"),  # one word each, of a language with spaces
        (("A", "好"), "wer"),  # characters alone say nothing
        (("X" * 40,), "cer"),
        (("",), "wer"),
    ],
)
def test_auto_is_cer_for_languages_without_spaces(examples, texts, metric):
    assert choose_metric("auto", spoken(examples, *texts)) == metric
    assert choose_metric("loss", spoken(examples, *texts)) == "loss"


@pytest.mark.slow
def test_the_metric_decides_is_logged_and_must_be_that_of_the_run_resumed(new_run, caplog):
    caplog.set_level("INFO")
    run = new_run("run", max_epochs=2, valid_metric="cer")
    state = run.fit()
    assert "validated by CER" in caplog.text
    assert "CER " in caplog.text.partition("valid loss")[2]
    events = run.events("valid")
    assert {event["metric"] for event in events} == {"cer"}
    rows = {row["speaker"]: row for row in run.table()}
    assert {row["metric"] for row in rows.values()} == {"cer"}
    assert float(rows["spk2"]["best"]) == pytest.approx(state.standings["spk2"].best[0][0], rel=1e-5)
    longer = {"max_epochs": 3, "valid_metric": "auto"}  # WER, of these texts
    with pytest.raises(CheckpointError, match=r"validation metric \(cer, now wer\)"):
        new_run("run", **longer).fit(resume=True)


@pytest.mark.slow
def test_a_metric_that_auto_has_chosen_may_be_written_out_on_resuming(new_run):
    new_run("run", max_epochs=1).fit()
    assert new_run("run", max_epochs=2, valid_metric="wer").fit(resume=True).epoch == 2


def test_validation_of_a_task_is_that_of_a_set_of_its_own(adapted, examples):
    with adapted.hooked():
        validation = validate(adapted, examples, 1000)  # whose batches mix tasks
        for task in ("spk1", "spk10", "spk2"):
            own = examples.without([u.utt_id for u in examples.data.utterances if u.task != task])
            alone = validate(adapted, own, 1000)
            assert validation.by_task[task] == alone.wer
            assert validation.loss_by_task[task] == pytest.approx(alone.loss, rel=1e-6)
    assert validation.loss == pytest.approx(sum(validation.loss_by_task.values()) / 3)  # as many of each


@pytest.mark.parametrize("kind", ["lora", "full", "hff"])
def test_batches_of_all_tasks_give_the_figures_of_each_alone(base, new_stack, examples, kind):
    adapted = AdaptedModel(base, new_stack(base, kind, is_trained=True)).eval()
    with adapted.hooked():
        mixed, alone = (validate(adapted, examples, frames, "cer") for frames in (2000, 1))
    assert mixed.by_task == alone.by_task
    assert mixed.loss_by_task == pytest.approx(alone.loss_by_task, rel=1e-5)


def test_a_task_whose_figures_are_known_is_not_validated(adapted, examples):
    with adapted.hooked():
        before = validate(adapted, examples, 400)
        for parameter in adapted.adapters.parameters():
            parameter.data.mul_(1.5)  # of spk1 too, which would be seen
        whole = validate(adapted, examples, 400)
        some = validate(adapted, examples, 400, known={"spk1": before.figures["spk1"]})
        none = validate(adapted, examples, 400, known=before.figures)
    assert some.sums["spk1"] == before.sums["spk1"] != whole.sums["spk1"]
    assert some.sums["spk2"] == pytest.approx(whole.sums["spk2"])
    assert none == before


def silent(examples, *tasks):
    utterances = tuple(replace(u, text="" if u.task in tasks else u.text) for u in examples.data.utterances)
    return replace(examples, data=replace(examples.data, utterances=utterances))


def test_texts_without_words_have_no_rate_and_count_in_all(adapted, examples):
    with adapted.hooked():
        some = validate(adapted, silent(examples, "spk2"), 12000)
        none = validate(adapted, silent(examples, "spk1", "spk10", "spk2"), 12000)
    assert (some.by_task["spk2"], none.wer) == (math.inf, math.inf)
    assert some.by_task["spk1"] < math.inf
    assert math.isfinite(some.wer)
    assert all(map(math.isfinite, none.loss_by_task.values()))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["residual", "hra"])
def test_a_speaker_whose_texts_hold_no_word_is_trained_by_its_loss_and_resumed(
    new_run, examples, kind, assert_same
):
    plan, options = {"valid": silent(examples, "spk1", "spk10", "spk2")}, {"max_epochs": 3, "lr": 0.002}
    whole = new_run("whole", kind, plan=plan, **options)
    state = whole.fit()
    assert [event["wer"] for event in whole.events("valid")] == [None] * 4
    assert {standing.best[0][0] for standing in state.standings.values()} <= {0.0, math.inf}
    new_run("run", kind, plan=plan, stop=7, **options, save_every_steps=2).fit_until_stopped()
    resumed = new_run("run", kind, plan=plan, **options)
    resumed.fit(resume=True)
    assert_same(resumed.weights, whole.weights)


def test_validation_loss_is_the_mean_over_utterances_whatever_the_batches(adapted, examples):
    with adapted.hooked():
        whole, divided = (validate(adapted, examples, frames) for frames in (12000, 1))
    assert whole.loss == pytest.approx(divided.loss, rel=1e-4)
