"""A tiny recogniser of ESPnet's own classes, and a tiny corpus with features, shared by the whole session."""

import copy
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from adaptkit import experiment
from adaptkit.adapters import api
from adaptkit.adapters.per_task import Space
from adaptkit.base import build
from adaptkit.base import checkpoint as base_checkpoint
from adaptkit.base.checkpoint import BaseModel
from adaptkit.data.batches import Batch
from adaptkit.data.dataset import Examples, number_tasks, read_examples
from adaptkit.features import extract
from adaptkit.features.fbank import FbankOptions
from adaptkit.kaldi import datadir
from adaptkit.kaldi.datadir import DataDir, Utterance
from adaptkit.model.adapted import AdaptedModel
from adaptkit.tensors import read_tensors
from adaptkit.training.loop import fit
from adaptkit.training.plan import Plan
from adaptkit.training.state import State

torch.set_num_threads(1)  # results to the last bit, and as fast at this size

OPTIONS = FbankOptions(rate_hz=8000, num_bins=20)
TOKENS = ("<blank>", "<unk>", "<space>", "A", "B", "C", "<sos/eos>")
SIZES = {"output_size": 16, "attention_heads": 2, "linear_units": 24, "num_blocks": 2}
CONFORMER = {**SIZES, "macaron_style": True, "rel_pos_type": "latest", "cnn_module_kernel": 7}
GATED = {"cgmlp_linear_units": 24, "cgmlp_conv_kernel": 7}
E_BRANCHFORMER = {**SIZES, **GATED, "use_ffn": True, "macaron_ffn": True}
VARIANTS = {
    "conformer": {},
    "no_macaron": {"encoder_conf": {**CONFORMER, "macaron_style": False}},
    "no_convolution": {"encoder_conf": {**CONFORMER, "use_cnn_module": False}},
    "legacy_positions": {"encoder_conf": {**CONFORMER, "rel_pos_type": "legacy"}},
    "interctc": {
        "encoder_conf": {**CONFORMER, "interctc_layer_idx": [1], "interctc_use_conditioning": True},
        "model_conf": {"ctc_weight": 1.0, "interctc_weight": 0.3},
    },
    "stochastic_depth": {"encoder_conf": {**CONFORMER, "stochastic_depth_rate": 0.5}},
    "transformer": {"encoder": "transformer", "encoder_conf": SIZES},
    "e_branchformer": {"encoder": "e_branchformer", "encoder_conf": E_BRANCHFORMER},
}
SPEAKERS = ("spk1", "spk10", "spk2")  # one is a prefix of another
TEXTS = ("AB", "C A", "BA", "ABC", "CC", "B", "CAB", "A B")


def pytest_generate_tests(metafunc):
    """Run tests on every encoder, and those that ask for a `bank` with a space on the plain Conformer too."""
    asked = {"variant", "bank"} & set(metafunc.fixturenames)
    cases = {
        "variant": [(name,) for name in VARIANTS],
        "bank": [("table",), ("space",)],
        "variant bank": [*((name, "table") for name in VARIANTS), ("conformer", "space")],
    }
    names = " ".join(sorted(asked, reverse=True))
    if asked:
        metafunc.parametrize(names.split(), cases[names], indirect=True, scope="session")


@pytest.fixture(scope="session")
def bank(request):
    """The options of a bank of weights that tasks own."""
    return {"table": {}, "space": {"bank": "space", "space_dim": 2}}[request.param]


@pytest.fixture(scope="session")
def model_config(tmp_path_factory):
    """Describe a tiny model as ESPnet's config.yaml does; keywords replace its keys."""
    stats = tmp_path_factory.mktemp("stats") / "feats_stats.npz"
    np.savez(
        stats, count=10.0, sum=np.full(20, 100.0), sum_square=np.full(20, 1090.0)
    )  # mean 10, deviation 3

    def describe(**changes):
        return build.complete(
            {
                "input_size": 20,
                "encoder": "conformer",
                "encoder_conf": CONFORMER,
                "model_conf": {"ctc_weight": 1.0},
                "normalize": "global_mvn",
                "normalize_conf": {"stats_file": str(stats)},
                "token_list": list(TOKENS),
                "adaptkit": {"features": OPTIONS.to_dict()},
                **changes,
            }
        )

    return describe


@pytest.fixture(scope="session")
def new_base(model_config):
    """Build a tiny model; keywords replace keys of its config.yaml."""

    def make(seed: int = 0, **changes) -> BaseModel:
        described = model_config(**changes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build.build(described)
            _settle(model)
        return base_checkpoint.wrap(Path("exp/tiny"), described, model)

    return make


def _settle(model: torch.nn.Module) -> None:
    """Give BatchNorm statistics that a training might have left, rather than zeros and ones."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)


@pytest.fixture(scope="session")
def variant(request, new_base):
    """Each of the encoders that adapters must suit; no test may change it."""
    return new_base(**VARIANTS[request.param])


@pytest.fixture(scope="session")
def base(new_base):
    """The tiny Conformer; no test may change it."""
    return new_base()


@pytest.fixture(scope="session")
def base_dir(base, tmp_path_factory):
    """The tiny Conformer on disk; no test may change it."""
    folder = tmp_path_factory.mktemp("base")
    base_checkpoint.save(folder, base.config, base.model.state_dict())
    return folder


@pytest.fixture
def new_stack():
    """Build adapters for a base model, of `kind` or of whole entries; trained ones differ from the base."""

    def make(base, kind="residual", *, tasks=SPEAKERS, is_trained=False, **options):
        torch.manual_seed(1)
        config = api.read_config({"kind": kind, **options})
        stack = api.build([config], base.sites, tasks, seed=0)
        if is_trained:
            for name, parameter in stack.named_parameters():
                torch.nn.init.normal_(parameter, std=0.3 / (Space.scale if "codes" in name else 1))
        return stack

    return make


@pytest.fixture
def new_batch():
    """Make a batch of noise for tasks, utterances of falling lengths or all of `length` frames."""

    def make(task_ids, length=None, seed=0) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        rows = len(task_ids)
        utt_ids = tuple(f"utt{row}" for row in range(rows))
        lengths = torch.tensor([length or 60 - 7 * row for row in range(rows)])
        inputs = 10 + 3 * torch.randn(rows, int(lengths.max()), 20, generator=generator)
        beyond = torch.arange(inputs.shape[1]) >= lengths[:, None]
        inputs = inputs.masked_fill(beyond[..., None], 0.0)
        tokens = torch.tensor([[3, 4], [5, -1]]).repeat(rows, 1)[:rows]
        return Batch(utt_ids, tuple(task_ids), inputs, lengths, tokens, (tokens >= 0).sum(dim=1))

    return make


def _speech(text: str, seed: int) -> np.ndarray:
    """Give each character 0.15 s of its own tone, with some noise."""
    times = np.arange(1200) / 8000
    tones = [np.sin(2 * np.pi * 300 * (ord(character) % 11) * times) for character in f" {text} "]
    speech = np.concatenate(tones)
    return 0.3 * speech + 0.02 * np.random.default_rng(seed).normal(size=len(speech))


def write_set(folder: Path, num_each: int, seed: int) -> Path:
    """Write a set of `num_each` utterances of each speaker under data/, and its features under dump/."""
    recordings, utterances = {}, []
    for speaker in SPEAKERS:
        for number in range(num_each):
            utt_id, text = f"{speaker}-{number:02}", TEXTS[(number + seed) % len(TEXTS)]
            recordings[utt_id] = str(folder / f"{utt_id}-{seed}.wav")
            soundfile.write(recordings[utt_id], _speech(text, seed + len(utterances)), 8000)
            utterances.append(Utterance(utt_id, speaker, utt_id, text))
    name = "train" if num_each > 2 else "valid"
    datadir.write(DataDir(folder / "data" / name, tuple(utterances), recordings))
    extract.extract(folder / "data" / name, folder / "dump" / name, OPTIONS)
    return folder / "dump" / name


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A folder with dump/train (18 utterances) and dump/valid (6) of three speakers; not to be changed."""
    folder = tmp_path_factory.mktemp("corpus")
    write_set(folder, 6, seed=0)
    write_set(folder, 2, seed=5)
    return folder


@pytest.fixture
def examples(base, corpus):
    """The training set, every utterance with the id of its speaker."""
    read = read_examples(corpus / "dump" / "train", base)
    return replace(read, task_ids=number_tasks(read.data, SPEAKERS))


def _of_tasks(examples: Examples, tasks: tuple[str, ...]) -> Examples:
    """Leave out utterances of other tasks, and number those that stay."""
    kept = examples.without([u.utt_id for u in examples.data.utterances if u.task not in tasks])
    return replace(kept, task_ids=number_tasks(kept.data, tasks))


@pytest.fixture
def settings(base_dir, corpus, tmp_path):
    """An experiment of residual adapters; keywords replace options of its training."""

    def make(**training) -> experiment.Experiment:
        sets = {"train": str(corpus / "dump/train"), "valid": str(corpus / "dump/valid")}
        options = {"max_epochs": 2, "batch_frames": 500, "lr": 0.01, "warmup_steps": 2, **training}
        entry = {"kind": "residual", "bottleneck": 4}
        content = {"name": "tiny", "base": {"dir": str(base_dir)}, "data": sets, "adapters": [entry]}
        return experiment.Experiment.model_validate({**content, "train": options})

    return make


@pytest.fixture
def encode():
    """Give what leaves the encoder for a batch, x (B, U, D), with or without adapters."""

    def run(base: BaseModel, stack: api.AdapterStack | None, batch: Batch) -> Tensor:
        adapted = AdaptedModel(base, stack).eval()
        with torch.no_grad(), adapted.hooked():
            return adapted.encode(batch)[0]

    return run


class Stopped(Exception):
    """What ends a run in the middle."""


@dataclass
class Run:
    """A run of adapters in a folder, and what it wrote where decoding finds it."""

    adapted: AdaptedModel
    plan: Plan
    written: list[tuple[int, dict[str, Tensor]]] = field(default_factory=list)  # step, weights

    def fit(self, *, resume=False) -> State:
        return fit(self.adapted, self.plan, resume=resume)

    def fit_until_stopped(self) -> None:
        with pytest.raises(Stopped):
            self.fit()

    @property
    def weights(self) -> dict[str, Tensor]:
        return self.written[-1][1]

    def events(self, kind: str) -> list[dict]:
        lines = (self.plan.folder / "train.jsonl").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == kind]

    def saved(self) -> dict[str, Tensor]:
        """The tensors of the saved state: optimizer.* and weights.*."""
        return read_tensors(self.plan.folder / "state.safetensors")[0]


@pytest.fixture
def new_run(base, examples, new_stack, settings, tmp_path):
    """Prepare a run in folder `name`, of `tasks` and their utterances alone.

    `stop` ends it when it has written weights of that step or a later one; with stop=inf it ends when all is
    written but the state.
    """

    def make(
        name="run", kind="residual", *, tasks=SPEAKERS, stop=None, is_trained=False, plan=None, **options
    ) -> Run:
        def write(weights: dict[str, Tensor], step: int) -> None:
            run.written.append((step, copy.deepcopy(dict(weights))))
            if stop is not None and step >= stop:
                raise Stopped

        def finish(state: State) -> None:
            if stop is not None:
                raise Stopped

        stack = new_stack(base, kind, tasks=tasks, is_trained=is_trained)
        chosen, own = settings(**options).train, _of_tasks(examples, tasks)
        given = Plan(own, own, tmp_path / name, chosen, {"lr": 1}, write, finish)
        run = Run(AdaptedModel(base, stack), replace(given, **(plan or {})))
        return run

    return make


@pytest.fixture(scope="session")
def assert_same():
    """Assert that two sets of tensors are bit-equal."""

    def check(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)

    return check
