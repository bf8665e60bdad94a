"""Training under torchrun, on the CPU and under masks: two processes are one with the same global batches."""

import json
import os
import shutil
import subprocess
import sys

import kaldiio
import numpy as np
import pytest
import torch

from adaptkit import checkpoint, experiment, train
from adaptkit.checkpoint import read_tensors
from adaptkit.kaldi.tables import read_table, write_table

pytestmark = pytest.mark.espnet
BATCHES = {"batch_frames": 410, "accumulate": 2}
SPEC = {"time_warp": 5, "freq_masks": 1, "freq_width": 8, "time_masks": 2, "time_width": 12}
SCRIPT = """
import sys
from torch import distributed
from adaptkit.cli.main import app
from adaptkit.errors import AdaptkitError

distributed.init_process_group("gloo")
for name in ("good", "broken"):
    try:
        app(["train", f"{name}.yaml", "--exp", f"two/{name}", "--device", "cpu"], standalone_mode=False)
    except AdaptkitError as error:
        sys.stdout.write(f"refused {error}\\n")
distributed.destroy_process_group()
"""


def experiment_of(base_dir, data, valid):
    sets = {"train": str(data), "valid": str(valid)}
    options = {"max_epochs": 5, "lr": 0.02, "warmup_steps": 2, "patience": 1, "average": 2, **BATCHES}
    section = {"name": "tiny", "base": {"dir": str(base_dir)}, "data": sets, "train": options}
    return experiment.Experiment.model_validate(
        {**section, "adapters": [{"kind": "residual", "bottleneck": 4}], "augment": {"spec": SPEC}}
    )


def spoil(data, utt_id):
    """Make the features of an utterance no numbers."""
    kaldiio.save_ark(
        str(data / "nan.ark"), {utt_id: np.full((60, 20), np.nan, np.float32)}, scp=str(data / "nan.scp")
    )
    write_table(data / "feats.scp", {**read_table(data / "feats.scp"), **read_table(data / "nan.scp")})


@pytest.fixture(scope="module")
def runs(base_dir, corpus, tmp_path_factory):
    """A folder with one/good, two/good and what two processes said; both trained alike."""
    folder = tmp_path_factory.mktemp("processes")
    broken = shutil.copytree(corpus / "dump/train", folder / "broken")
    spoil(broken, "spk10-03")
    for name, data in {"good": corpus / "dump/train", "broken": broken}.items():
        made = experiment_of(base_dir, data, corpus / "dump/valid")
        experiment.save(made, folder / f"{name}.yaml")
    train.train_adapters(experiment.load(folder / "good.yaml"), folder / "one/good", device="cpu")
    (folder / "script.py").write_text(SCRIPT)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "script.py",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    (folder / "said").write_text(done.stdout)
    return folder


def steps(folder):
    events = map(json.loads, (folder / "train.jsonl").read_text().splitlines())
    return [event for event in events if event["event"] == "step"]


def test_batches_are_uneven_and_one_is_a_single_utterance(new_run):
    run = new_run(**BATCHES)
    plans = [run.plan.steps(epoch, run.objective.adapters) for epoch in range(5)]
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


def test_both_processes_name_the_utterance_that_one_of_them_had(runs):
    said = [line for line in (runs / "said").read_text().splitlines() if line.startswith("refused")]
    assert len(said) == 2
    assert all("is nan, from these alone: spk10-03." in line for line in said)
