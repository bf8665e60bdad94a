"""What is attacked: each function makes input number `seed` of its surface and tries it.

A surface knows what the right result is, so that a wrong one which passes in silence is found.
"""

import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import yaml

from adaptkit import config, experiment
from adaptkit.adapters import api
from adaptkit.adapters.catalog import available
from adaptkit.base import checkpoint as base_checkpoint
from adaptkit.base.checkpoint import BaseModel
from adaptkit.data.batches import load_batches
from adaptkit.data.dataset import read_examples
from adaptkit.errors import AdaptkitError
from adaptkit.experiment import Experiment
from adaptkit.folders import RunFolder
from adaptkit.kaldi import datadir
from adaptkit.kaldi.audio import read_audio
from adaptkit.kaldi.recording import probe
from adaptkit.kaldi.tables import read_table
from adaptkit.model import checkpoint
from adaptkit.model.load import load_experiment
from adaptkit.submodels.folder import SubmodelFolder
from tests.fuzz.mutate import VALUES, mutate_bytes, mutate_table, mutate_tree, paths
from tests.fuzz.outcome import Outcome, Silent, classify, command
from tests.fuzz.requests import http
from tests.fuzz.results import results
from tests.fuzz.world import World

TABLES = (
    "wav.scp",
    "text",
    "utt2spk",
    "spk2utt",
    "segments",
    "utt2dur",
    "utt2task",
    "utt2group",
    "spk2group",
)


def _random(surface: str, seed: int) -> random.Random:
    return random.Random(f"{surface}/{seed}")


def _to_yaml(tree: Any) -> str:
    """Format a tree, however deep."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        return yaml.safe_dump(tree)
    finally:
        sys.setrecursionlimit(before)


def _make_special(path: Path, rng: random.Random) -> str:
    """Replace a file by what is not one."""
    path.unlink(missing_ok=True)
    match rng.choice(["missing", "fifo", "folder", "loop", "dangling"]):
        case "fifo":
            os.mkfifo(path)
            return f"{path.name} is a FIFO"
        case "folder":
            path.mkdir()
            return f"{path.name} is a folder"
        case "loop":
            path.symlink_to(path.name)
            return f"{path.name} is a link to itself"
        case "dangling":
            path.symlink_to("nowhere")
            return f"{path.name} is a dangling link"
    return f"{path.name} is missing"


def _damage(path: Path, rng: random.Random, how: Callable = mutate_bytes) -> str:
    """Damage a file in place."""
    if rng.random() < 0.05:
        return _make_special(path, rng)
    what, content = how(rng, path.read_bytes())
    path.write_bytes(content)
    return f"{path.name}: {what}"


def data_dirs(world: World, seed: int) -> Outcome:
    """Damage the tables of a data directory: validate, fix and feats must agree about it."""
    rng = _random("data_dirs", seed)
    folder = world.copy(world.data)
    utt_ids = [line.split()[0] for line in (folder / "text").read_text().splitlines()]
    if rng.random() < 0.5:
        (folder / "segments").write_text("".join(f"{u} {u} 0.1 0.4\n" for u in utt_ids))
    speakers = list(read_table(folder / "spk2utt"))
    optional = {"utt2dur": "0.300", "utt2task": "t", "utt2group": "g", "spk2group": "g"}
    for name, value in optional.items():
        if rng.random() < 0.3:
            keys = speakers if name == "spk2group" else utt_ids
            (folder / name).write_text("".join(f"{key} {value}\n" for key in keys))
    names = [name for name in TABLES if (folder / name).exists()]
    chosen = rng.sample(names, rng.choice([1, 1, 1, 2, 3]))
    what = "; ".join(_damage(folder / name, rng, mutate_table) for name in chosen)

    def run() -> None:
        out = folder.parent / "dump"
        shutil.rmtree(out, ignore_errors=True)
        try:
            command("data", "validate", folder)
        except AdaptkitError as fault:
            try:
                command("data", "fix", folder)
            except AdaptkitError:
                raise fault from None
            try:
                command("data", "validate", folder)
            except AdaptkitError as error:
                raise Silent(f"'data fix' left: {error}\nof: {fault}") from None
        extracted = command("feats", folder, out, "--rate", 8000, "--num-bins", 20)
        listed = len(datadir.read(folder).utterances)
        if f"{listed} utterances" not in extracted:
            raise Silent(f"{listed} utterances validated, but feats: {extracted}")

    return classify(what, run)


@lru_cache(maxsize=1)
def _recordings() -> dict[str, tuple[bytes, int]]:
    """Speech in every format, and its number of samples."""
    samples = np.random.default_rng(0).normal(0, 0.1, 12_000).clip(-0.9, 0.9)
    made = {}
    formats = [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "PCM_24"), ("WAV", "ULAW"), ("WAV", "GSM610")]
    formats += [("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III"), ("NIST", "PCM_16")]
    formats += [("AIFF", "PCM_16"), ("WAV", "G721_32"), ("W64", "PCM_16")]
    for form, subtype in formats:
        import io

        content = io.BytesIO()
        soundfile.write(content, samples, 8000, format=form, subtype=subtype)
        made[f"{form} {subtype}"] = content.getvalue(), len(samples)
    return made


def audio(world: World, seed: int) -> Outcome:
    """Damage a recording: what is read has the length that was said, and is finite."""
    rng = _random("audio", seed)
    name, (whole, num_samples) = rng.choice(sorted(_recordings().items()))
    what, content = mutate_bytes(rng, whole) if rng.random() < 0.97 else ("whole", whole)
    form = rng.choice(["file", "file", "ark", "joined"])
    if form == "joined":
        what, content = "joined", whole + whole
    path = world.folder / "tried" / f"a.{name.split()[0].lower()}"
    path.parent.mkdir(exist_ok=True)
    location = str(path)
    if form == "ark":
        content, location = b"utt1 " + content, f"{path}:5"
    path.write_bytes(content)

    def run() -> None:
        recording = probe(location)
        speech = read_audio(location, rate_hz=recording.rate_hz)
        if len(speech) != recording.num_samples:
            raise Silent(f"the header says {recording.num_samples} samples, {len(speech)} are read")
        if not torch.isfinite(speech).all():
            raise Silent("samples that are not finite")
        if what == "whole" and abs(len(speech) - num_samples) > 2000:
            raise Silent(f"{len(speech)} samples of {num_samples}")
        if what == "joined" and "MP3" in name and len(speech) < 1.9 * num_samples:
            raise Silent(f"{len(speech)} samples of twice {num_samples}")

    return classify(f"{name} as {form}: {what}", run)


def _experiment_tree(world: World, rng: random.Random) -> dict[str, Any]:
    """Return an experiment with every section, and some adapter types with all their options."""
    tree = {
        "name": "tried",
        "base": {"dir": str(world.base), "model": "conformer_6x64", "tokens": {"type": "bpe", "size": 50}},
        "data": {"train": str(world.dump), "valid": str(world.dump)},
        "train": {"max_epochs": 1},
    }
    kinds = rng.sample(available(), rng.choice([1, 1, 2]))
    tree["adapters"] = [config.dump(api.read_config({"kind": kind})) for kind in kinds]
    path = world.folder / "tried" / "whole.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(_to_yaml(tree))
    policy = rng.choice(["libri_full_adapt", "mtr", None])
    return config.dump(experiment.load(path, augment=policy))


def settings(world: World, seed: int) -> Outcome:
    """Change a value of an experiment's yaml, in the file or by --set: refused, or kept as it was written."""
    rng = _random("settings", seed)
    tree = _experiment_tree(world, rng)
    path = world.folder / "tried" / "tried.yaml"
    words: list[str] = []
    if rng.random() < 0.6:
        what, changed = mutate_tree(rng, tree)
        path.write_text(_to_yaml(changed))
    else:
        place = ".".join(map(str, rng.choice(list(paths(tree)))))
        value = rng.choice(
            [*map(str, VALUES), "!!int abc", "!!python/name:os.system", "*a", "&a [*a]", "[" * 600]
        )
        words = [
            rng.choice([f"{place}={value}", f"{place}.x={value}", place, f"={value}", f"{place}.0={value}"])
        ]
        what = f"--set {words[0][:100]}"
        path.write_text(_to_yaml(tree))

    def run() -> None:
        loaded = experiment.load(path, words)
        _refuse_silent_changes(tree, path, words, loaded)
        again = config.check(Experiment, config.dump(loaded), "again")
        if again != loaded:
            raise Silent("what is written is not what was read")
        base = _base(world)
        api.build(loaded.adapters, base.sites, ["a", "b"], seed=loaded.train.seed)

    return classify(what, run)


def _refuse_silent_changes(tree: dict, path: Path, words: list[str], loaded: Experiment) -> None:
    """Find values that were accepted as something else than what was written."""
    written, kept = yaml.safe_load(path.read_text()), config.dump(loaded)
    for word in words:
        if "=" in word:
            config.apply(written, word)
    for place in paths(written):
        given, stored = written, kept
        try:
            for key in place:
                given, stored = given[key], stored[key]
        except (KeyError, IndexError, TypeError):
            continue
        is_number = isinstance(stored, int | float) and not isinstance(stored, bool)
        if isinstance(given, dict | list) or given is None:
            continue
        if is_number and (isinstance(given, bool) or not isinstance(given, int | float | str)):
            raise Silent(f"{'.'.join(map(str, place))}: {given!r} was taken as {stored!r}")
        if is_number and isinstance(given, int | float) and given != stored:
            raise Silent(f"{'.'.join(map(str, place))}: {given!r} was taken as {stored!r}")
        if is_number and not np.isfinite(stored):
            raise Silent(f"{'.'.join(map(str, place))}: {stored!r} was accepted")


_BASES: dict[Path, tuple[BaseModel, torch.Tensor]] = {}


def _base(world: World) -> BaseModel:
    if world.folder not in _BASES:
        base = base_checkpoint.load(world.base)
        _BASES[world.folder] = (base, _encode(base))
    return _BASES[world.folder][0]


def _encode(base: BaseModel) -> torch.Tensor:
    """Return what a model makes of fixed features."""
    inputs = 10 + 3 * torch.randn(1, 60, 20, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        encoded = base.model.encode(inputs, torch.tensor([60]))[0]
        return base.model.ctc.log_softmax(encoded[0] if isinstance(encoded, tuple) else encoded)


def base_files(world: World, seed: int) -> Outcome:
    """Damage a base model: another model has another fingerprint."""
    rng = _random("base_files", seed)
    folder = world.copy(world.base)
    config_file = RunFolder(folder).config
    if rng.random() < 0.65:
        what, tree = mutate_tree(rng, yaml.safe_load(config_file.read_text()))
        config_file.write_text(_to_yaml(tree))
        what = f"config.yaml: {what}"
    else:
        name = rng.choice(["model.pth", "model.pth", "config.yaml"])
        what = _damage(folder / name, rng)

    def run() -> None:
        original = _base(world)
        base = base_checkpoint.load(folder)
        _, expected = _BASES[world.folder]
        try:
            found = _encode(base)
        except Exception as error:
            raise Silent(f"loads, but does not run: {type(error).__name__}: {error}") from error
        is_same = found.shape == expected.shape and found.equal(expected)
        is_same &= (base.tokens.tokens, base.features) == (original.tokens.tokens, original.features)
        if base.fingerprint == original.fingerprint and not is_same:
            raise Silent("gives other words, with the same fingerprint")

    return classify(what, run)


def adapter_files(world: World, seed: int) -> Outcome:
    """Damage an adapter file, or a Submodel: refused, or read as it was."""
    rng = _random("adapter_files", seed)
    base = _base(world)
    if rng.random() < 0.5:
        folder = world.copy(world.exp)
        name = rng.choice(["adapter.safetensors"] * 3 + ["config.yaml"])
        what = _damage(folder / name, rng)

        def run() -> None:
            original = checkpoint.load(RunFolder(world.exp).adapter)
            found = load_experiment(folder, base=world.base)
            is_same = found.file.tasks == original.tasks and found.file.adapters == original.adapters
            weights = found.adapters.state_dict()
            if not is_same or not all(weights[name].equal(w) for name, w in original.weights.items()):
                raise Silent("other adapters were loaded")

        return classify(what, run)
    folder = world.copy(world.submodels)
    path = rng.choice(sorted(folder.iterdir()))
    what = _damage(path, rng)

    def run_submodels() -> None:
        command("submodels", "list", folder, "--base", world.base)
        original, found = SubmodelFolder(world.submodels, base), SubmodelFolder(folder, base)
        for each in (original, found):
            each.take(each.look())
        for task in found.known():
            try:
                weights = found.read(found.find(task)).weights
            except AdaptkitError:
                continue
            expected = original.read(original.find(task)).weights
            if not all(weights[name].equal(weight) for name, weight in expected.items()):
                raise Silent(f"other weights of {task} were loaded")

    return classify(f"Submodels: {what}", run_submodels)


def dumps(world: World, seed: int) -> Outcome:
    """Damage extracted features: refused, made again, or read as they were."""
    rng = _random("dumps", seed)
    folder = world.copy(world.dump)
    scp = folder / "feats.scp"
    scp.write_text(scp.read_text().replace(str(world.dump), str(folder)))
    names = ["feats.1.ark"] * 4 + [
        "feats.1.json",
        "feats.json",
        "feats.scp",
        "utt2num_frames",
        "text",
        "utt2dur",
    ]
    name = rng.choice([name for name in names if (folder / name).exists()])
    what = _damage(folder / name, rng, mutate_table if name in ("feats.scp", "text") else mutate_bytes)

    def run() -> None:
        expected = {one: array for one, array in _features(world.dump, _base(world)).items()}
        found = _features(folder, _base(world))
        changed = [one for one, array in found.items() if one in expected and not array.equal(expected[one])]
        if changed and not what.startswith("feats.scp: value of"):
            raise Silent(f"other features of {changed}")
        if name.startswith("feats.1"):
            command("feats", world.data, folder, "--rate", 8000, "--num-bins", 20)
            if not all(array.equal(expected[one]) for one, array in _features(folder, _base(world)).items()):
                raise Silent("'feats' kept damaged features")

    def run_and_repair() -> None:
        try:
            run()
        except AdaptkitError:
            if name.startswith("feats.1") and not (folder / name).is_dir():
                command("feats", world.data, folder, "--rate", 8000, "--num-bins", 20)
                expected, found = (_features(place, _base(world)) for place in (world.dump, folder))
                if not all(array.equal(expected[one]) for one, array in found.items()):
                    raise Silent("'feats' kept damaged features") from None
            raise

    return classify(what, run_and_repair)


def _features(folder: Path, base: BaseModel) -> dict[str, torch.Tensor]:
    examples = read_examples(folder, base)
    rows = {}
    for batch in load_batches(examples, [[index] for index in range(len(examples))]):
        rows[batch.utt_ids[0]] = batch.inputs[0]
    return rows


def runs(world: World, seed: int) -> Outcome:
    """Damage what a training run left: going on gives the adapters of a longer run, or is refused."""
    rng = _random("runs", seed)
    folder = world.copy(world.exp)
    names = ["state.safetensors", "train.jsonl", "config.yaml", "run.json", "adapter.safetensors"]
    name = rng.choice([name for name in names if (folder / name).exists()])
    what = _damage(folder / name, rng)

    def run() -> None:
        words = ("--set", "train.max_epochs=2", "--exp", folder, "--resume", "--device", "cpu")
        command("train", world.exp / "config.yaml", *words)
        if name in ("state.safetensors", "train.jsonl", "run.json"):
            original, found = (checkpoint.load(RunFolder(each).adapter) for each in (world.longer, folder))
            if not all(found.weights[key].equal(weight) for key, weight in original.weights.items()):
                raise Silent("resumed to other adapters")
        command("decode", folder, world.dump, "--device", "cpu")
        command("score", world.data, folder / "decode_valid")
        command("report", folder, "--test-set", "valid")

    return classify(what, run)


def imports(world: World, seed: int) -> Outcome:
    """Damage the table of a corpus in another layout: refused, or a data directory that is valid."""
    rng = _random("imports", seed)
    folder = world.folder / "tried"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    data = datadir.read(world.data)
    rows = [(data.recordings[u.recording], u.text, u.speaker) for u in data.utterances]
    kind = rng.choice(["list.csv", "list.tsv", "metadata.csv", "metadata.jsonl", "ann.json"])
    table = folder / kind
    if kind == "ann.json":
        files = [{"Filename": path, "Prompt": {"Transcript": text}} for path, text, _ in rows]
        table.write_text(json.dumps({"Contributor ID": "ann", "Files": files}))
    elif kind == "metadata.jsonl":
        named = [dict(zip(("file_name", "text", "speaker"), row, strict=True)) for row in rows]
        table.write_text("".join(f"{json.dumps(row)}\n" for row in named))
    else:
        mark = "\t" if kind == "list.tsv" else ","
        names = ("file_name", "text", "speaker")
        table.write_text("".join(f"{mark.join(row)}\n" for row in (names, *rows)))
    what = _damage(table, rng) if rng.random() < 0.95 else "whole"

    def run() -> None:
        words = ("--layout", "sap") if kind == "ann.json" else ()
        told = command("data", "import", table, folder / "data", *words)
        found = datadir.read(folder / "data").utterances
        if f"{len(found)} utterances" not in told:
            raise Silent(f"{len(found)} utterances, but import: {told}")
        if what == "whole" and sorted(u.text for u in found) != sorted(text for _, text, _ in rows):
            raise Silent("other texts")

    return classify(f"{kind}: {what}", run)


SURFACES: dict[str, Callable[[World, int], Outcome]] = {
    function.__name__: function
    for function in (
        data_dirs,
        audio,
        settings,
        base_files,
        adapter_files,
        dumps,
        runs,
        results,
        http,
        imports,
    )
}
