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
from adaptkit.batches import shuffle_batches
from adaptkit.examples import read_examples
from adaptkit.kaldi.tables import read_table, write_table

pytestmark = pytest.mark.espnet
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
    options = {"max_epochs": 3, "batch_frames": 410, "accumulate": 2, "lr": 0.01, "warmup_steps": 2}
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


def test_batches_are_uneven_and_one_is_a_single_utterance(base, corpus):
    lengths = read_examples(corpus / "dump/train", base).lengths
    plans = [shuffle_batches(lengths, 410, seed=0, epoch=epoch) for epoch in range(3)]
    assert {len(batch) for plan in plans for batch in plan} == {1, 5, 7}


def test_two_processes_train_the_weights_of_one(runs):
    one, two = (checkpoint.load(runs / name / "good/adapter.safetensors") for name in ("one", "two"))
    assert one.step == two.step
    for name, tensor in one.weights.items():
        torch.testing.assert_close(two.weights[name], tensor, atol=2e-4, rtol=0)  # after steps of up to 0.01


def test_two_processes_note_the_losses_and_gradients_of_one(runs):
    one, two = steps(runs / "one/good"), steps(runs / "two/good")
    for figure in ("step", "loss", "grad_norm", "lr"):
        assert [s[figure] for s in two] == pytest.approx([s[figure] for s in one], rel=1e-3)


def test_both_processes_name_the_utterance_that_one_of_them_had(runs):
    said = [line for line in (runs / "said").read_text().splitlines() if line.startswith("refused")]
    assert len(said) == 2
    assert all("is nan, from these alone: spk10-03." in line for line in said)
