"""Our models and ESPnet's own task, in another process: importing the task takes 16 s and warns a lot."""

import subprocess
import sys

import pytest
import torch

from adaptkit.adapters import api
from adaptkit.base.fold import fold, write

pytestmark = pytest.mark.slow
SCRIPT = """
import logging, os, sys, torch
from adaptkit.base import build
from adaptkit.config import read_yaml
from adaptkit.errors import ConfigError

folder = sys.argv[1]
logging.basicConfig(level=logging.INFO)
config = read_yaml(folder + "/base/config.yaml")
sizes = {"output_size": 16, "attention_heads": 2, "num_blocks": 1}
try:
    build.build({**config, "encoder": "branchformer", "encoder_conf": sizes})
except ConfigError as error:
    print("refused without trust", error)
os.environ["ADAPTKIT_TRUST_CONFIG"] = "1"
model = build.build({**config, "encoder": "branchformer", "encoder_conf": sizes})
print("built", type(model.encoder).__name__, model.error_calculator)
try:
    build.build({**config, "encoder": "conformr"})
except ConfigError as error:
    print("refused", error)

from espnet2.tasks.asr import ASRTask
given = torch.load(folder + "/given.pt")
for name in ("base", "folded"):
    saved = folder + "/" + name
    model, _ = ASRTask.build_model_from_file(saved + "/config.yaml", saved + "/model.pth", "cpu")
    with torch.no_grad():
        inputs = given["inputs"].clone()  # which the model normalises in place
        encoded, frames = model.eval().encode(inputs, given["lengths"])
    torch.save(encoded, saved + "/encoded.pt")
"""


@pytest.fixture(scope="module")
def models(base):
    """The tiny Conformer, and it with adapters of a speaker folded in."""
    entries = (
        {"kind": "lora", "rank": 2},
        {"kind": "tpa", "bottleneck": 4, "input": "normed", "activation": "swish"},
    )
    stack = api.build([api.read_config(entry) for entry in entries], base.sites, ["spk1"], seed=0)
    torch.manual_seed(1)
    for parameter in stack.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return {"base": base, "folded": fold(base, stack.requires_grad_(False), "spk1")}


@pytest.fixture(scope="module")
def folder(models, environment, tmp_path_factory):
    """Saved models, an input for them, and what ESPnet's task makes of both, without a network."""
    folder = tmp_path_factory.mktemp("task")
    for name, model in models.items():
        write(model, folder / name)
    torch.manual_seed(0)
    given = {"inputs": 10 + 3 * torch.randn(2, 50, 20), "lengths": torch.tensor([50, 50])}
    torch.save(given, folder / "given.pt")
    offline = {
        "NLTK_DATA": str(folder),
        "http_proxy": "http://localhost:9",
        "https_proxy": "http://localhost:9",
    }
    with open(folder / "stdout", "w") as stdout, open(folder / "stderr", "w") as stderr:
        command = [sys.executable, "-c", SCRIPT, str(folder)]
        subprocess.run(command, stdout=stdout, stderr=stderr, timeout=240, env={**environment, **offline})
    return folder


@pytest.mark.parametrize("name", ["base", "folded"])
def test_espnet_reads_what_we_save_to_equal_output(folder, models, name):
    assert (folder / name / "encoded.pt").exists(), (folder / "stderr").read_text()
    given = torch.load(folder / "given.pt")
    with torch.no_grad():
        expected, _ = models[name].model.encode(given["inputs"], given["lengths"])
    assert torch.equal(torch.load(folder / name / "encoded.pt"), expected)


def test_a_class_outside_the_table_is_built_by_espnets_task_only_with_trust_and_that_is_said(folder):
    assert "refused without trust config.yaml: encoder: branchformer" in (folder / "stdout").read_text()
    assert "built BranchformerEncoder None" in (folder / "stdout").read_text()
    assert "encoder: branchformer: unknown to adaptkit" in (folder / "stderr").read_text()


def test_a_class_that_espnet_does_not_know_either_is_refused(folder):
    expected = "refused espnet2.tasks.asr rejects the configuration: ValueError: --encoder must be one of"
    assert expected in (folder / "stdout").read_text()
