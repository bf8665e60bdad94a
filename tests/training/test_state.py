"""A run can be stopped anywhere: the resumed run is the one that nothing stopped."""

import math
import resource

import pytest

from adaptkit.errors import CheckpointError, TrainingError
from adaptkit.tensors import write_tensors
from adaptkit.training import state
from adaptkit.training.standing import Standing
from adaptkit.training.state import State

pytestmark = pytest.mark.slow

OPTIONS = {"max_epochs": 3, "average": 2, "save_every_steps": 2}


@pytest.fixture
def whole(new_run):
    """A run that nothing stopped, averaging two of its three validations."""
    run = new_run("whole", **OPTIONS)
    run.fit()
    return run


@pytest.mark.parametrize("stop", [1, 4, 7])
def test_a_run_stopped_after_writing_weights_but_before_its_state_resumes_to_the_same(
    new_run, whole, stop, assert_same
):
    new_run("run", stop=stop, **OPTIONS).fit_until_stopped()
    resumed = new_run("run", **OPTIONS)
    resumed.fit(resume=True)
    assert_same(resumed.weights, whole.weights)
    assert_same(resumed.saved(), whole.saved())


def test_a_run_stopped_after_its_average_resumes_to_the_same(new_run, whole, assert_same):
    new_run("run", stop=math.inf, **OPTIONS).fit_until_stopped()
    resumed = new_run("run", **OPTIONS)
    resumed.fit(resume=True)
    assert_same(resumed.weights, whole.weights)


def test_steps_done_again_are_noted_once(new_run, whole):
    new_run("run", stop=4, **OPTIONS).fit_until_stopped()
    resumed = new_run("run", **OPTIONS)
    resumed.fit(resume=True)
    timeless = [
        [{key: value for key, value in event.items() if "seconds" not in key} for event in run.events(kind)]
        for run in (resumed, whole)
        for kind in ("step", "valid")
    ]
    assert timeless[:2] == timeless[2:]


def test_a_run_stopped_before_its_first_save_starts_over(new_run, assert_same):
    expected = new_run("whole", max_epochs=1)
    expected.fit()
    new_run("run", stop=1, max_epochs=1).fit_until_stopped()
    again = new_run("run", max_epochs=1)
    again.fit()
    assert_same(again.weights, expected.weights)
    assert [event["step"] for event in again.events("step")] == [e["step"] for e in expected.events("step")]


def test_what_a_killed_run_was_writing_is_removed(new_run):
    run = new_run("run", max_epochs=1)
    run.plan.folder.mkdir()
    (run.plan.folder / ".state.123.partial.safetensors").write_bytes(b"half")
    run.fit()
    names = sorted(path.name for path in run.plan.folder.iterdir())
    assert names == ["state.safetensors", "train.jsonl", "validation.tsv"]


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


LENGTHS = {"average": 2, "save_every_steps": 2, "lr": 0.002, "schedule": "constant"}


def with_length(new_run, name, num_epochs, *, schedule="constant", warmup_steps=2, **options):
    identity = {"train.max_epochs": num_epochs, "train.schedule": schedule}
    identity["train.warmup_steps"] = warmup_steps
    made = {**LENGTHS, "schedule": schedule, "warmup_steps": warmup_steps, **options}
    return new_run(name, max_epochs=num_epochs, plan={"identity": identity}, **made)


@pytest.mark.parametrize("kind", ["residual", "hra"])
@pytest.mark.parametrize("average", [1, 2])
def test_a_finished_run_goes_on_for_more_epochs_to_the_bits_of_the_longer_run(
    new_run, kind, average, assert_same, caplog
):
    options = {"kind": kind, "average": average}
    longer, run = (with_length(new_run, *of, **options) for of in (("longer", 5), ("run", 3)))
    longer.fit()
    run.fit()
    (run.plan.folder / "run.json").write_text("{}")
    resumed = with_length(new_run, "run", 5, **options)
    state = resumed.fit(resume=True)
    assert state.epoch == 5
    assert_same(resumed.weights, longer.weights)
    assert_same(resumed.saved(), longer.saved())
    assert not (run.plan.folder / "run.json").exists()  # which `finish` would write again
    assert "continues from 3 to 5 epochs; the learning rate does not depend on the length" in caplog.text


def test_a_stopped_run_goes_on_for_more_epochs_to_the_bits_of_the_longer_run(new_run, assert_same):
    longer, resumed = (with_length(new_run, name, 4) for name in ("longer", "run"))
    longer.fit()
    with_length(new_run, "run", 3, stop=4).fit_until_stopped()
    resumed.fit(resume=True)
    assert_same(resumed.weights, longer.weights)
    assert_same(resumed.saved(), longer.saved())


def test_a_schedule_that_depends_on_the_length_is_said_to_continue_as_in_the_longer_run(new_run, caplog):
    options = {"schedule": "linear", "warmup_steps": 0, "batch_frames": 10**6, "lr": 0.01}
    with_length(new_run, "run", 2, **options).fit()
    resumed = with_length(new_run, "run", 4, **options)
    resumed.fit(resume=True)
    rates = [event["lr"] for event in resumed.events("step")]
    assert rates == pytest.approx([0.01, 0.005, 0.005, 0.0025])
    assert "the linear schedule decays over the whole run: the learning rate continues as in" in caplog.text


def test_a_warm_up_that_depends_on_the_length_is_said_to_continue_as_in_the_longer_run(new_run, caplog):
    for num_epochs in (2, 4):
        run = with_length(new_run, "run", num_epochs, warmup_steps=None)
        run.fit(resume=num_epochs == 4)
    assert "whose warm-up may be longer than this one was" in caplog.text


def test_a_run_that_early_stopping_ended_stays_as_it_is(new_run, content):
    options = {"patience": 1, "lr": 1e-30}
    with_length(new_run, "run", 5, **options).fit()
    resumed = with_length(new_run, "run", 9, **options)
    before = content(resumed.plan.folder)
    assert resumed.fit(resume=True).epoch == 1
    assert content(resumed.plan.folder) == before


def test_fewer_epochs_are_refused_and_more_without_the_checkpoints_to_average(new_run):
    with_length(new_run, "run", 3).fit()
    with pytest.raises(CheckpointError, match=r"train\.max_epochs \(3, now 2\); .*only max_epochs may grow"):
        with_length(new_run, "run", 2).fit(resume=True)
    resumed = with_length(new_run, "run", 5)
    for path in (resumed.plan.folder / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(CheckpointError, match="the checkpoints to average at the end .* are gone: .*step_"):
        resumed.fit(resume=True)


def test_a_second_run_in_the_same_folder_is_refused(new_run):
    new_run("run").fit()
    with pytest.raises(CheckpointError, match="run: holds a run already; --resume continues it"):
        new_run("run").fit()


def test_resuming_with_other_settings_is_refused_with_both_values(new_run):
    new_run("run").fit()
    other = new_run("run", plan={"identity": {"lr": 2}})
    with pytest.raises(CheckpointError, match=r"by a run with different settings: lr \(1, now 2\); resume"):
        other.fit(resume=True)


def test_a_damaged_state_is_refused(new_run):
    run = new_run("run")
    run.fit()
    path = run.plan.folder / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="state.safetensors: damaged or truncated"):
        new_run("run").fit(resume=True)


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"state": 5, "identity": {}, "scaler": {}},
        {"state": {"standings": {"spk1": {"x": 1}}}, "identity": {}, "scaler": {}},
        {"state": {"standings": {}, "step": "3"}, "identity": {"lr": 1}, "scaler": {}},
        {"state": {"standings": {}}, "identity": {"lr": 1}, "scaler": {}},
    ],
)
def test_a_state_of_another_kind_is_refused(new_run, header):
    run = new_run("run")
    weights = run.adapted.adapters.state_dict()
    tensors = {f"weights.{name}": tensor for name, tensor in weights.items()}
    write_tensors(run.plan.folder / "state.safetensors", tensors, header)
    with pytest.raises(CheckpointError, match="state.safetensors: not the state of this training; put"):
        run.fit(resume=True)


def test_damaged_lines_of_a_log_are_left_out_on_resuming(new_run, caplog):
    new_run("run", stop=4, **OPTIONS).fit_until_stopped()
    path = new_run("run").plan.folder / "train.jsonl"
    damaged = [
        b"5",
        b"[]",
        b"[" * 9999,
        b'{"event": 1, "step": 2}',
        b'{"event": "step", "step": "2"}',
        b"\xff\0",
    ]
    path.write_bytes(b"".join(line + b"\n" for line in damaged) + path.read_bytes())
    resumed = new_run("run", **OPTIONS)
    resumed.fit(resume=True)
    assert [event["step"] for event in resumed.events("step")] == list(range(1, 10))
    assert caplog.text.count("an incomplete or damaged line is skipped") >= len(damaged)


def test_a_full_disk_under_the_log_is_an_error_and_the_run_resumes(new_run, whole, assert_same, tmp_path):
    run = new_run("run", **{**OPTIONS, "save_every_steps": 500})
    run.plan.folder.mkdir()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))  # bytes; a line has 100 to 400
    try:
        with pytest.raises(TrainingError, match="train.jsonl: the training log cannot be written: File too"):
            run.fit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (run.plan.folder / "train.jsonl").stat().st_size == 500
    resumed = new_run("run", **OPTIONS)
    resumed.fit(resume=True)
    assert_same(resumed.weights, whole.weights)


def test_a_state_holds_moments_and_steps_of_every_task_and_of_what_they_share(new_run):
    first = new_run("run", "hra", max_epochs=1)
    first.fit()
    names = {name for name in first.saved() if name.startswith("optimizer.")}
    slots = {f"optimizer.shared.{i}.{slot}" for i in range(3) for slot in ("exp_avg", "exp_avg_sq", "step")}
    assert names == {"optimizer.moments", "optimizer.steps", *slots}
    assert first.saved()["optimizer.moments"].shape[:2] == (2, 3)
    assert first.saved()["optimizer.steps"].all()


def test_resuming_nothing_starts(new_run):
    run = new_run("run", max_epochs=1)
    assert run.fit(resume=True).is_done


def test_a_tie_is_no_better_and_patience_counts_validations_since_the_best():
    standing = Standing()
    seen = []
    for entry in ([50.0, 1.0, 3], [50.0, 1.0, 6], [40.0, 2.0, 9], [40.0, 2.5, 12], [60.0, 0.1, 15]):
        standing = standing.after(entry, average=2, patience=2)
        seen.append((standing.waited, standing.is_stopped))
    assert seen == [(0, False), (1, False), (0, False), (1, False), (2, True)]
    assert standing.best == [[40.0, 2.0, 9], [40.0, 2.5, 12]]


def test_the_start_is_left_for_a_gain_that_is_large_enough_and_any_gain_ends_the_waiting():
    standing, seen = Standing(), []
    for entry in ([50.0, 1.0, 0], [48.0, 1.0, 3], [49.0, 1.0, 6], [44.0, 1.0, 9], [43.0, 1.0, 12]):
        standing = standing.after(entry, average=1, patience=2, min_gain=0.1)
        seen.append((standing.best[0][2], standing.waited))
    assert seen == [(0, 0), (0, 0), (0, 1), (9, 0), (12, 0)]


def test_without_patience_nothing_stops():
    standing = Standing()
    for step in range(99):
        standing = standing.after([50.0, 1.0, step], average=1, patience=None)
    assert (standing.waited, standing.is_stopped) == (98, False)


def test_the_digest_of_a_data_set_is_that_of_all_its_rows(examples, monkeypatch):
    rows = [
        (u.utt_id, u.task, u.text, length)
        for u, length in zip(examples.data.utterances, examples.lengths, strict=True)
    ]
    monkeypatch.setattr(state, "_CHUNK", 5)  # of 18 utterances
    assert state.describe_contents(examples, None) == {"training set": state.digest(rows)}


def test_a_state_names_what_has_stopped_and_the_steps_kept_for_any():
    standings = {"a": Standing([[1.0, 1.0, 6], [2.0, 1.0, 3]]), "b": Standing([[1.0, 1.0, 3]], 2, True)}
    state = State(standings=standings)
    assert (state.stopped, state.kept_steps) == ({"b"}, {3, 6})
