"""Our models and ESPnet's own task, in another process: importing the task takes 16 s and warns a lot."""

import subprocess
import sys

import pytest
import torch

from adaptkit.adapters import api
from adaptkit.adapters.catalog import available
from adaptkit.base import checkpoint, padding
from adaptkit.base.archive import locate
from adaptkit.base.fold import fold, write
from adaptkit.data.batches import Batch
from adaptkit.model.adapted import AdaptedModel

pytestmark = pytest.mark.slow
SCRIPT = """
import logging, os, sys, torch
from adaptkit.base import build
from adaptkit.base.classes import import_unchecked
from adaptkit.base.transducer import importable
from adaptkit.config import read_yaml
from adaptkit.errors import ConfigError

folder = sys.argv[1]
torch.set_num_threads(1)
logging.basicConfig(level=logging.INFO)
config = read_yaml(folder + "/base/config.yaml")
sizes = {"output_size": 16, "attention_heads": 2, "num_blocks": 1}
build.CLASSES["encoder"].pop("branchformer")  # as if adaptkit did not know it
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

ASRTask = import_unchecked("espnet2.tasks.asr.ASRTask")
given = torch.load(folder + "/given.pt")
for name in ("base", "folded"):
    saved = folder + "/" + name
    model, _ = ASRTask.build_model_from_file(saved + "/config.yaml", saved + "/model.pth", "cpu")
    with torch.no_grad():
        inputs = given["inputs"].clone()  # which the model normalises in place
        encoded, frames = model.eval().encode(inputs, given["lengths"])
    torch.save(encoded, saved + "/encoded.pt")

for name, (root, config, weights) in given["archives"].items():
    os.chdir(root)  # to which paths in an archive are relative
    with importable():
        model, _ = ASRTask.build_model_from_file(config, weights, "cpu")
    model.eval()
    found = {"encoded": [], "losses": []}
    rows = zip(given["speech"], given["lengths_of_speech"], given["tokens"], given["token_lengths"])
    for speech, length, tokens, num_tokens in rows:
        row = (speech[None, :length], length[None], tokens[None, :num_tokens], num_tokens[None])
        with torch.no_grad():
            found["encoded"].append(model.encode(row[0].clone(), row[1])[0][0])
            found["losses"].append(model(*(x.clone() for x in row))[0].squeeze())
    torch.save(found, folder + "/" + name + ".pt")
"""
ARCHIVES = (
    "librispeech_conformer",
    "gigaspeech_conformer",
    "aishell_conformer",
    "wsj_conformer",
    "librispeech_transformer",
    "librispeech_e_branchformer",
    "aishell_branchformer",
    "librispeech_transducer",
    "aishell_streaming_conformer",
)
ALL_KINDS = ("gigaspeech_conformer", "librispeech_transducer")  # with legacy positions, and without attention
ROWS = Batch(
    ("a-1", "b-1", "c-1"),
    (0, 1, 2),
    0.1 * torch.randn(3, 32000, generator=torch.Generator().manual_seed(0)),
    torch.tensor([32000, 24000, 21001]),
    torch.tensor([[3, 4, 5, 5], [7, 8, -1, -1], [9, 3, 4, -1]]),
    torch.tensor([4, 2, 3]),
)


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
def folder(models, environment, new_archive, tmp_path_factory):
    """Saved models, an input for them, and what ESPnet's task makes of both, without a network."""
    folder = tmp_path_factory.mktemp("task")
    for name, model in models.items():
        write(model, folder / name)
    torch.manual_seed(0)
    given = {"inputs": 10 + 3 * torch.randn(2, 50, 20), "lengths": torch.tensor([50, 50])}
    found = {name: locate(new_archive(name)) for name in ARCHIVES}
    given["archives"] = {name: tuple(map(str, (f.root, f.config, f.model))) for name, f in found.items()}
    given |= {"speech": ROWS.inputs, "lengths_of_speech": ROWS.lengths}
    given |= {"tokens": ROWS.tokens, "token_lengths": ROWS.token_lengths}
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


@pytest.fixture(scope="module", params=ARCHIVES)
def released(request, new_archive):
    """A base model out of each archive, and its name; no test may change it."""
    return request.param, checkpoint.load(new_archive(request.param))


@pytest.fixture
def espnets(folder, released):
    """What ESPnet's own model makes of each row alone."""
    path = folder / f"{released[0]}.pt"
    assert path.exists(), (folder / "stderr").read_text()
    return torch.load(path)


def batches_of(base):
    """The rows together, or one by one where a batch holds utterances of one length."""
    return [[0, 1, 2]] if padding.mixes_lengths(base.model) else [[0], [1], [2]]


def test_each_row_alone_is_encoded_to_the_same_bits(released, espnets):
    adapted = AdaptedModel(released[1], is_frozen=True).eval()
    with torch.no_grad(), adapted.hooked():
        for row, expected in enumerate(espnets["encoded"]):
            assert torch.equal(adapted.encode(ROWS.rows([row]))[0][0], expected)


def test_rows_of_a_batch_are_encoded_as_espnet_encodes_each_alone(released, espnets):
    adapted = AdaptedModel(released[1], is_frozen=True).eval()
    with torch.no_grad(), adapted.hooked():
        for rows in batches_of(released[1]):
            encoded, frames = adapted.encode(ROWS.rows(rows))
            for x, length, row in zip(encoded, frames.tolist(), rows, strict=True):
                torch.testing.assert_close(x[:length], espnets["encoded"][row], atol=1e-4, rtol=1e-4)


def test_loss_is_espnets_and_steps_lower_it(released, espnets, new_stack):
    name, base = released
    for kind in available() if name in ALL_KINDS else ("residual",):
        adapted = AdaptedModel(base, new_stack(base, kind, tasks=("a", "b", "c"))).train()
        optimizer = torch.optim.Adam(adapted.trained.parameters(), lr=1e-3)
        with adapted.hooked():
            alone = [adapted.loss(ROWS.rows([row])).detach() for row in range(3)]
            torch.testing.assert_close(torch.stack(alone), torch.stack(espnets["losses"]), atol=0, rtol=1e-6)
            seen = []
            for _ in range(3):
                losses = [adapted.loss(ROWS.rows(rows)) * len(rows) / 3 for rows in batches_of(base)]
                seen.append(sum(losses))
                optimizer.zero_grad()
                seen[-1].backward()
                optimizer.step()
        expected = torch.stack(espnets["losses"]).mean()
        torch.testing.assert_close(seen[0].detach(), expected, atol=1e-4, rtol=1e-4)
        assert seen[2] < seen[0], kind
