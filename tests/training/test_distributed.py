"""Training under torchrun, on the CPU: two processes are one with the same global batches."""

import json
import shutil
import socket
import subprocess
from contextlib import ExitStack, contextmanager
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import torch

from adaptkit import experiment
from adaptkit.adapters import api
from adaptkit.adapters.catalog import available
from adaptkit.errors import CheckpointError
from adaptkit.kaldi.tables import read_table, write_table
from adaptkit.model import checkpoint
from adaptkit.model.adapted import AdaptedModel
from adaptkit.tensors import read_tensors
from adaptkit.training import distributed
from adaptkit.training import run as train
from adaptkit.training.optimizer import PerTask
from adaptkit.training.precision import seed_everything
from tests.fixtures.forks import PATIENCE, Fork
from tests.fixtures.models import CONFORMER, E_BRANCHFORMER

pytestmark = pytest.mark.slow
BATCHES = {"batch_frames": 410, "accumulate": 2}
SPEC = {"time_warp": 5, "freq_masks": 1, "freq_width": 8, "time_masks": 2, "time_width": 12}
OPTIONS = {"max_epochs": 5, "lr": 0.02, "warmup_steps": 2, "patience": 1, "average": 2, **BATCHES}
# most batches are of one speaker alone, some of one utterance each of several
SPARSE = {"batch_frames": 180, "task_utterances": 3, "max_epochs": 2, "valid_every": 2, "weight_decay": 0.1}
SPARSE |= {"decay_towards": "start"}
STEADY = {"lr": 0.01, "warmup_steps": 0, "schedule": "constant", "clip_norm": None}
TRIALS = {"max_epochs": 2, "valid_metric": "loss", **BATCHES, **STEADY, "lr": [0.002, 0.01]}
OPTIMIZERS = ("adamw", "sgd")
# AdamW would turn rounding into steps where the gradient is zero, as of the biases of keys
SHORT = {
    "max_epochs": 2,
    "valid_every": 2,
    "valid_metric": "loss",
    **BATCHES,
    **STEADY,
    "lr": 0.005,
    "optimizer": "sgd",
}
SIZES = {"residual": {"bottleneck": 4}, "tpa": {"bottleneck": 4}, "hra": {"controller_width": 4}}
SIZES |= {"hff": {"dim": 4}, "lora": {"rank": 2}}
KINDS = {f"kind_{kind}": {"kind": kind, **SIZES.get(kind, {})} for kind in available()}
RESIDUAL = KINDS["kind_residual"]
KINDS["kind_embedding"] = {**KINDS["kind_hra"], "bank": "space", "space_dim": 3}
KINDS["kind_side"] = {"kind": "hff", "dim": 4, "shared": True, "side": "conv", "cache": True}
WORDS = {1: "one", 2: "two", 4: "four"}
SCRIPT = """
import runpy
import sys
import time
from torch import distributed
from adaptkit.cli.main import app
from adaptkit.errors import AdaptkitError

recording = runpy.run_path(sys.argv[1])["recording"]
distributed.init_process_group("gloo")
number, *names = sys.argv[2:]
for name in names:
    words = ["train", f"{name}.yaml", "--exp", f"{number}/{name}", "--device", "cpu"]
    if name == "grid" and distributed.get_rank():
        time.sleep(3)  # the first process has begun to write by now
    try:
        with recording(f"{number}/{name}.{distributed.get_rank()}"):
            app(words, standalone_mode=False)
    except AdaptkitError as error:
        sys.stdout.write(f"refused {error}\\n")
distributed.destroy_process_group()
"""


@contextmanager
def recording(path):
    """Write what speakers own, weights and the optimiser's state, before the first step and after each."""
    step, taken = PerTask.step, []

    def snap(optimizer):
        weights = [parameter.detach().flatten(1) for parameter in optimizer.owned]
        made = {"weights": torch.cat(weights, dim=1), "steps": optimizer.steps.clone()}
        if optimizer.algorithm == "adamw":
            made.update(zip(("first", "second"), optimizer.moments.clone(), strict=True))
        taken.append(made)

    def step_and_snap(optimizer):
        if not taken:
            snap(optimizer)
        step(optimizer)
        snap(optimizer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PerTask, "step", step_and_snap)
        yield
    torch.save(taken, path)


def experiment_of(base_dir, data, valid, options=OPTIONS, augment=None, entry=RESIDUAL):
    sets = {"train": str(data), "valid": valid and str(valid)}
    section = {"name": "tiny", "base": {"dir": str(base_dir)}, "data": sets, "train": options}
    return experiment.Experiment.model_validate({**section, "adapters": [entry], "augment": augment})


def spoil(data, utt_id):
    """Make the features of an utterance no numbers."""
    kaldiio.save_ark(
        str(data / "nan.ark"), {utt_id: np.full((60, 20), np.nan, np.float32)}, scp=str(data / "nan.scp")
    )
    write_table(data / "feats.scp", {**read_table(data / "feats.scp"), **read_table(data / "nan.scp")})


@pytest.fixture(scope="module")
def runs(base_dir, corpus, forking, tmp_path_factory):
    """A folder of what one process and two trained alike, what steps did there, and what the two said."""
    folder = tmp_path_factory.mktemp("processes")
    broken = shutil.copytree(corpus / "dump/train", folder / "broken")
    spoil(broken, "spk10-03")
    for name, data in {"good": corpus / "dump/train", "broken": broken}.items():
        made = experiment_of(base_dir, data, corpus / "dump/valid", augment={"spec": SPEC})
        experiment.save(made, folder / f"{name}.yaml")
    for name in OPTIMIZERS:
        options = {**SPARSE, **STEADY, "optimizer": name}
        made = experiment_of(base_dir, corpus / "dump/train", corpus / "dump/valid", options)
        experiment.save(made, folder / f"{name}.yaml")
    for name, valid, folds in (("folds", None, 2), ("grid", corpus / "dump/valid", None)):
        made = experiment_of(base_dir, corpus / "dump/train", valid, {**TRIALS, "folds": folds})
        experiment.save(made, folder / f"{name}.yaml")
    for name, entry in KINDS.items():
        made = experiment_of(base_dir, corpus / "dump/train", corpus / "dump/valid", SHORT, entry=entry)
        experiment.save(made, folder / f"{name}.yaml")
    for name in ("good", "folds", "grid", *OPTIMIZERS, *KINDS):
        made = experiment.load(folder / f"{name}.yaml")
        with recording(folder / f"{name}.one"):
            train.train_adapters(made, folder / "one" / name, device="cpu")
    (folder / "script.py").write_text(SCRIPT)
    (folder / "said").write_text(
        torchrun(folder, 2, ["good", *OPTIMIZERS, "folds", "grid", *KINDS, "broken"], forking)
    )
    torchrun(folder, 4, KINDS, forking)
    return folder


def torchrun(folder, number, names, environment):
    """Train experiments in 2 processes, or in 4 as on two machines, each in turn; return what they said."""
    alone = ["--standalone", "--nproc_per_node", "2"]
    meeting = ["--rdzv_backend", "c10d", "--rdzv_id", "tests", "--rdzv_endpoint", f"127.0.0.1:{free_port()}"]
    words = alone if number == 2 else ["--nnodes", "2", "--nproc_per_node", "2", *meeting]
    command = [environment["PYTHON_EXEC"], "-m", "torch.distributed.run", *words]
    command += ["script.py", __file__, WORDS[number], *names]
    logs = [folder / f"{WORDS[number]}.{machine}" for machine in range(number // 2)]
    with ExitStack() as stack:
        started = []
        for log in logs:
            said, warned = (stack.enter_context(open(f"{log}.{end}", "w")) for end in ("out", "err"))
            started.append(subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=warned))
            stack.callback(started[-1].wait)
            stack.callback(started[-1].kill)
        codes = [process.wait(timeout=480) for process in started]
    assert not any(codes), [Path(f"{log}.err").read_text() for log in logs]
    return "".join(Path(f"{log}.out").read_text() for log in logs)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def steps(folder):
    events = map(json.loads, (folder / "train.jsonl").read_text().splitlines())
    return [event for event in events if event["event"] == "step"]


def test_batches_are_uneven_and_one_is_a_single_utterance(new_run):
    run = new_run(**BATCHES)
    plans = [run.plan.steps(run.adapted.adapters).of_epoch(epoch) for epoch in range(5)]
    assert {len(batch) for steps in plans for step in steps for batch in step} >= {1, 2, 3, 5}
    assert {len(step) for steps in plans for step in steps} == {1, 2}


def test_two_processes_train_the_weights_of_one(runs):
    one, two = (checkpoint.load(runs / name / "good/adapter.safetensors") for name in ("one", "two"))
    assert one.step == two.step
    for name, tensor in one.weights.items():
        torch.testing.assert_close(two.weights[name], tensor, atol=4e-4, rtol=0)  # after steps of up to 0.02


def test_two_processes_count_the_steps_of_each_speaker_as_one_does(runs):
    (one, _), (two, _) = (read_tensors(runs / name / "good/state.safetensors") for name in ("one", "two"))
    assert torch.equal(two["optimizer.steps"], one["optimizer.steps"])
    assert len(one["optimizer.steps"].unique()) > 1


def test_two_processes_stop_the_speakers_that_one_does_and_keep_the_same_validations(runs):
    one, two = (
        read_tensors(runs / name / "good/state.safetensors")[1]["state"]["standings"]
        for name in ("one", "two")
    )
    steps = [{task: [step for _, _, step in s["best"]] for task, s in each.items()} for each in (one, two)]
    assert steps[0] == steps[1]
    assert {task for task, standing in one.items() if standing["is_stopped"]} == {"spk10"}
    assert {task for task, standing in two.items() if standing["is_stopped"]} == {"spk10"}


def test_two_processes_note_the_losses_and_gradients_of_one(runs):
    one, two = steps(runs / "one/good"), steps(runs / "two/good")
    for figure in ("step", "loss", "grad_norm", "lr"):
        assert [s[figure] for s in two] == pytest.approx([s[figure] for s in one], rel=1e-3)


@pytest.mark.parametrize("name", ["folds", "grid"])
def test_two_processes_choose_and_train_after_trials_as_one_does(runs, name):
    one, two = (runs / number / name for number in ("one", "two"))
    chosen = [
        [line.split("\t")[:3] for line in (folder / "selection.tsv").read_text().splitlines()]
        for folder in (one, two)
    ]
    assert chosen[0] == chosen[1]
    weights = [checkpoint.load(folder / "adapter.safetensors").weights for folder in (one, two)]
    for key, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][key], tensor, atol=4e-4, rtol=0)


def test_both_processes_name_the_utterance_that_one_of_them_had(runs):
    said = [line for line in (runs / "said").read_text().splitlines() if line.startswith("refused")]
    assert len(said) == 2
    assert all("is nan, caused by spk10-03;" in line for line in said)


# every adapter type


@pytest.mark.parametrize("number", [2, 4])
@pytest.mark.parametrize("name", KINDS)
def test_processes_train_every_adapter_type_as_one_does(runs, base, name, number):
    made = experiment.load(runs / f"{name}.yaml")
    one, several = (read_tensors(runs / WORDS[n] / name / "state.safetensors")[0] for n in (1, number))
    tasks = checkpoint.load(runs / "one" / name / "adapter.safetensors").tasks
    start = api.build(made.adapters, base.sites, tasks, made.train.seed).state_dict()
    learnt, difference = (
        torch.cat([(weights[f"weights.{key}"] - other[key]).flatten() for key in start])
        for weights, other in (
            (one, start),
            (several, {key: one[f"weights.{key}"] for key in start}),
        )
    )
    assert learnt.norm() > 0.01
    assert difference.norm() <= 1e-4 * learnt.norm()


@pytest.mark.parametrize("options", [{}, {"max_epochs": 3}])
def test_a_run_of_several_processes_is_not_resumed_by_one(runs, tmp_path, options):
    folder = shutil.copytree(runs / "four/kind_residual", tmp_path / "exp")
    made = experiment.load(runs / "kind_residual.yaml")
    longer = made.model_copy(update={"train": made.train.model_copy(update=options)})
    with pytest.raises(CheckpointError, match=r"number of processes \(4, now 1\); resume with its settings"):
        train.train_adapters(longer, folder, device="cpu", resume=True)


# speaker by speaker


@pytest.fixture
def shares(new_run):
    """Say of every step which speakers, by their ids, each of two processes has utterances of."""
    run = new_run(**SPARSE)
    train, adapters = run.plan.train, run.adapted.adapters
    ids = [train.task_ids[utterance.task] for utterance in train.data.utterances]
    plans = (run.plan.steps(adapters).of_epoch(epoch) for epoch in range(SPARSE["max_epochs"]))
    return [[{ids[i] for i in batch[rank::2]} for rank in (0, 1)] for plan in plans for (batch,) in plan]


def taken_in(path, shares):
    """Return what speakers own before and after each step, and who had utterances in which process."""
    taken = torch.load(path)
    return list(zip(taken[:-1], taken[1:], shares, strict=True))


def test_some_steps_lack_a_speaker_and_in_some_one_process_alone_has_one(shares):
    assert {rank for own in shares for rank in (0, 1) if own[rank] - own[1 - rank]} == {0, 1}
    assert any(own[0] & own[1] for own in shares)
    assert any(set() in own for own in shares)  # and a process has an utterance that counts for nothing
    assert all(any(task not in own[0] | own[1] for own in shares[3:]) for task in range(3))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_step_without_utterances_of_a_speaker_in_either_process_keeps_its_every_bit(
    runs, shares, optimizer, rank
):
    for before, after, (first, second) in taken_in(runs / f"two/{optimizer}.{rank}", shares):
        for task in range(3):
            is_kept = {name: torch.equal(after[name][task], own[task]) for name, own in before.items()}
            assert is_kept == dict.fromkeys(before, task not in first | second)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_speaker_of_one_process_alone_learns_in_both_what_it_would_in_one(runs, shares, optimizer, rank):
    one, two = (taken_in(runs / name, shares) for name in (f"{optimizer}.one", f"two/{optimizer}.{rank}"))
    for (before, after, (first, second)), (before_2, after_2, _) in zip(one, two, strict=True):
        for task in first ^ second:
            for name, own in before.items():
                learnt = after[name][task] - own[task]
                difference = after_2[name][task] - before_2[name][task] - learnt
                assert difference.abs().max() <= 1e-4 * learnt.abs().max()


STOPPED = """
import os, signal, sys
import torch
from torch import distributed
from adaptkit.errors import AdaptkitError
from adaptkit.training.distributed import in_processes

try:
    with in_processes("cpu"):
        distributed.all_reduce(torch.zeros(1))
        if distributed.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        distributed.all_reduce(torch.zeros(1))
except AdaptkitError as error:
    sys.exit(f"refused {error}")
"""


def test_a_stopped_process_is_an_error_of_the_others_in_bounded_time(environment, forks, tmp_path):
    (tmp_path / "script.py").write_text(STOPPED)
    meeting = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": "3",
        distributed.TIMEOUT: "8",
    }
    with ExitStack() as stack:
        processes = []
        for rank in "012":
            said = stack.enter_context((tmp_path / rank).open("w"))
            words, own = ["python", tmp_path / "script.py"], {**meeting, "RANK": rank}
            process = Fork(forks, words, {**environment, **own}, stdout=said, stderr=said)
            processes.append(stack.enter_context(process))
            stack.callback(process.kill)
        for rank in (0, 2):
            assert processes[rank].wait(PATIENCE) == 1
            said = (tmp_path / str(rank)).read_text()
            assert "another process of this training ended, or did not answer within 8 s" in said


@pytest.fixture
def process_group():
    """Join a process group of this process alone."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("encoder", "options"),
    [
        ("conformer", {**CONFORMER, "stochastic_depth_rate": 0.9}),
        ("e_branchformer", {**E_BRANCHFORMER, "layer_drop_rate": 0.9}),
    ],
)
def test_a_base_whose_layers_are_left_out_at_random_is_trained_in_processes(
    process_group, new_base, new_batch, encoder, options
):
    adapted = AdaptedModel(new_base(encoder=encoder, encoder_conf=options))
    step = distributed.in_parallel(adapted, adapted.trained, has_statistics=True)
    with adapted.train().hooked():
        for number in range(3):
            adapted.trained.zero_grad()
            seed_everything(0, number)
            step(new_batch((-1, -1))).backward()
    assert any(parameter.grad is None for parameter in adapted.trained.parameters())
