"""Our models and ESPnet's own task, in another process: importing the task takes 16 s and warns a lot."""

import os
import subprocess
import sys

import pytest
import torch

from adaptkit.base import checkpoint

pytestmark = pytest.mark.espnet
SCRIPT = """
import logging, sys, torch
from adaptkit.base import build
from adaptkit.config import read_yaml
from adaptkit.errors import ConfigError

folder = sys.argv[1]
logging.basicConfig(level=logging.INFO)
config = read_yaml(folder + "/config.yaml")
sizes = {"output_size": 16, "attention_heads": 2, "num_blocks": 1}
model = build.build({**config, "encoder": "branchformer", "encoder_conf": sizes})
print("built", type(model.encoder).__name__, model.error_calculator)
try:
    build.build({**config, "encoder": "conformr"})
except ConfigError as error:
    print("refused", error)

from espnet2.tasks.asr import ASRTask
model, _ = ASRTask.build_model_from_file(folder + "/config.yaml", folder + "/model.pth", "cpu")
given = torch.load(folder + "/given.pt")
with torch.no_grad():
    encoded, frames = model.eval().encode(given["inputs"], given["lengths"])
torch.save(encoded, folder + "/encoded.pt")
"""


@pytest.fixture(scope="module")
def folder(base, tmp_path_factory):
    """A saved model, an input for it, and what ESPnet's task makes of both, without a network."""
    folder = tmp_path_factory.mktemp("task")
    checkpoint.save(folder, base.config, base.model.state_dict())
    torch.manual_seed(0)
    given = {"inputs": 10 + 3 * torch.randn(2, 50, 20), "lengths": torch.tensor([50, 50])}
    torch.save(given, folder / "given.pt")
    environment = {**os.environ, "NLTK_DATA": str(folder), "OMP_NUM_THREADS": "1"}
    environment |= {"http_proxy": "http://localhost:9", "https_proxy": "http://localhost:9"}
    with open(folder / "stdout", "w") as stdout, open(folder / "stderr", "w") as stderr:
        command = [sys.executable, "-c", SCRIPT, str(folder)]
        subprocess.run(command, stdout=stdout, stderr=stderr, timeout=240, env=environment)
    return folder


def test_espnet_reads_what_we_save_to_equal_output(folder, base, new_batch, encode):
    assert (folder / "encoded.pt").exists(), (folder / "stderr").read_text()
    given = torch.load(folder / "given.pt")
    with torch.no_grad():
        expected, _ = base.model.encode(given["inputs"], given["lengths"])
    assert torch.equal(torch.load(folder / "encoded.pt"), expected)


def test_a_class_outside_the_table_is_built_by_espnets_task_and_that_is_said(folder):
    assert "built BranchformerEncoder None" in (folder / "stdout").read_text()
    assert "encoder: branchformer is not in adaptkit's table" in (folder / "stderr").read_text()


def test_a_class_that_espnet_does_not_know_either_is_refused(folder):
    expected = "refused espnet2.tasks.asr refuses the configuration: --encoder must be one of ('conformer'"
    assert expected in (folder / "stdout").read_text()
