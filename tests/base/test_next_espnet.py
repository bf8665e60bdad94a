"""Bases and adapters of ESPnet 202511 in 202611, and of 202611 in 202511, in a process each.

Run by `make test-next-espnet`, with 202611 first on PYTHONPATH and 202511 installed.
"""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch

from adaptkit.adapters import api
from adaptkit.base import build
from adaptkit.base import checkpoint as base_checkpoint
from adaptkit.base.classes import CLASSES
from adaptkit.base.fold import fold, write
from adaptkit.base.padding import mixes_lengths
from adaptkit.base.search.searcher import Searcher
from adaptkit.data.batches import Batch
from adaptkit.model import checkpoint
from adaptkit.model.adapted import AdaptedModel
from adaptkit.search_options import Beam
from tests.fixtures.models import CONFORMER, E_BRANCHFORMER, GATED, OPTIONS, SIZES, TOKENS

OLDER = "202511"
if metadata.version("espnet") == OLDER and __name__ != "__main__":
    pytest.skip("needs two versions of ESPnet: 'make test-next-espnet'", allow_module_level=True)
pytestmark = pytest.mark.slow
ABSOLUTE = {"pos_enc_layer_type": "scaled_abs_pos", "selfattention_layer_type": "selfattn"}
MULTICONV = {**SIZES, "macaron_style": True, "cgmlp_linear_units": 24, "multicgmlp_kernel_sizes": "3,5"}
BRANCHES = {name: size for name, size in SIZES.items() if name != "linear_units"}
ENCODERS = {
    "conformer": ("conformer", CONFORMER),
    "scaled_positions": ("conformer", {**CONFORMER, **ABSOLUTE}),
    "subsampling_by_8": ("conformer", {**CONFORMER, "input_layer": "conv2d8"}),
    "e_branchformer": ("e_branchformer", E_BRANCHFORMER),
    "transformer": ("transformer", SIZES),
    "branchformer": ("branchformer", {**BRANCHES, **GATED}),
    "multiconvformer": ("multiconv_conformer", MULTICONV),
    "contextual_block": ("contextual_block_conformer", {**SIZES, "macaron_style": True}),
}
NAMES = [name for name, (encoder, _) in ENCODERS.items() if encoder in CLASSES["encoder"]]
ADAPTERS = {
    "full": ({"kind": "full"},),
    "bitfit": ({"kind": "bitfit"},),
    "mixed": ({"kind": "lora", "rank": 2}, {"kind": "residual"}, {"kind": "tpa"}),
}
TASKS = ("spk1", "spk2")


def describe(name, stats):
    """A hybrid model with a tiny encoder, as config.yaml does."""
    encoder, conf = ENCODERS[name]
    decoder = {"attention_heads": 2, "linear_units": 16, "num_blocks": 1}
    return build.complete(
        {
            **{"input_size": 20, "encoder": encoder, "encoder_conf": conf, "decoder": "transformer"},
            **{"decoder_conf": decoder, "model_conf": {"ctc_weight": 0.3}, "normalize": "global_mvn"},
            **{"normalize_conf": {"stats_file": str(stats)}, "token_list": list(TOKENS)},
            "adaptkit": {"features": OPTIONS.to_dict()},
        }
    )


def save(folder):
    """Save a base with adapters of each kind for every encoder, one folded, and what they compute."""
    folder.mkdir()
    stats = folder / "stats.npz"
    np.savez(stats, count=10.0, sum=np.full(20, 100.0), sum_square=np.full(20, 1090.0))
    for name in NAMES:
        described = describe(name, stats)
        torch.manual_seed(0)
        model = build.build(described)
        base_checkpoint.save(folder / name, described, model.state_dict())
        base = base_checkpoint.load(folder / name)
        for kind, entries in ADAPTERS.items():
            stack = api.build([api.read_config(entry) for entry in entries], base.sites, TASKS, seed=0)
            for parameter in stack.parameters():
                torch.nn.init.normal_(parameter, std=0.1)
            checkpoint.save(folder / name / kind, stack, base.fingerprint, 7, stack.state_dict())
            if kind == "bitfit":
                write(fold(base, stack.requires_grad_(False), "spk1"), folder / name / "folded")
    (folder / "computed.json").write_text(json.dumps(compute(folder)))


def compute(folder):
    """Load all that `save` wrote, and return fingerprints, names, encoder outputs and losses."""
    results = {}
    for name in NAMES:
        base = base_checkpoint.load(folder / name)
        folded = base_checkpoint.load(folder / name / "folded")
        results[name] = {"base": run(base, None), "folded": run(folded, None)}
        for kind in ADAPTERS:
            file = checkpoint.load(folder / name / kind)
            results[name][kind] = run(base, checkpoint.restore(file, base, folder / name / kind))
    return results


@torch.no_grad()
def run(base, stack):
    """The fingerprint, names of weights and texts, and the numbers for utterances of two speakers."""
    torch.manual_seed(1)
    lengths = torch.tensor([70, 51 if mixes_lengths(base.model) else 70])
    inputs = 10 + 3 * torch.randn(2, 70, 20)
    inputs[1, lengths[1] :] = 0
    tokens = torch.tensor([[3, 4], [5, -1]])
    batch = Batch(("utt1", "utt2"), (0, 1), inputs, lengths, tokens, torch.tensor([2, 1]))
    adapted = AdaptedModel(base, stack, is_frozen=True).eval()
    with adapted.hooked():
        encoded, frames = adapted.encode(batch)
        loss = float(adapted.loss(batch))
        found = adapted.recognise(batch, Searcher(Beam(beam_size=3, maxlenratio=-6, nbest=2)))
    outputs = [row[:n].flatten().tolist() for row, n in zip(encoded, frames, strict=True)]
    texts = [path.tokens for row in found for path in row]
    scores = [path.score for row in found for path in row]
    same = [base.fingerprint, sorted(base.model.state_dict()), texts]
    return same, [*outputs[0], *outputs[1], loss, *scores]


@pytest.fixture(scope="module")
def computed(environment, tmp_path_factory):
    """What each version computes from what each has written."""
    folder = tmp_path_factory.mktemp("versions")
    save(folder / "next")
    paths = environment["PYTHONPATH"].split(os.pathsep)
    older = os.pathsep.join(["."] + [path for path in paths if not Path(path, "espnet2").is_dir()])
    command = [sys.executable, "-m", "tests.base.test_next_espnet", str(folder)]
    subprocess.run(command, env={**environment, "PYTHONPATH": older}, check=True, timeout=240)
    return {
        "next": json.loads((folder / "next" / "computed.json").read_text()),
        "next_in_old": json.loads((folder / "next_in_old.json").read_text()),
        "old": json.loads((folder / "old" / "computed.json").read_text()),
        "old_in_next": compute(folder / "old"),
        "version": (folder / "version").read_text(),
    }


def test_the_other_process_has_the_older_espnet(computed):
    assert computed["version"] == OLDER


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["base", "folded", *ADAPTERS])
@pytest.mark.parametrize("origin", ["next", "old"])
def test_a_base_and_its_adapters_load_in_the_other_version_with_equal_outputs(computed, origin, kind, name):
    other = {"next": "next_in_old", "old": "old_in_next"}[origin]
    same, numbers = computed[origin][name][kind]
    assert computed[other][name][kind][0] == same
    assert computed[other][name][kind][1] == pytest.approx(numbers, abs=1e-6, rel=1e-6)


if __name__ == "__main__":
    work = Path(sys.argv[1])
    (work / "next_in_old.json").write_text(json.dumps(compute(work / "next")))
    save(work / "old")
    (work / "version").write_text(metadata.version("espnet"))
