"""Experiments on disk, as a recipe leaves them."""

import json

import pytest

from adaptkit.kaldi.tables import write_table
from adaptkit.records import DecodeRecord, RunRecord
from adaptkit.scoring import files as score_files

SPEAKERS = ("ann", "bob & <co>")
REFS = {f"{name}-{number}": "a b c d" for name in ("ann", "bob") for number in range(5)}
ANN_WRONG = {utt_id: "a b c x" if utt_id.startswith("ann") else "a b c d" for utt_id in REFS}  # 12.5 %
HYPS = {
    "none": {utt_id: "a b x" for utt_id in REFS},  # one sub, one del: 50 %
    "residual64": ANN_WRONG,
}
SIZES = {"none": 0, "residual64": 2500, "hra": 100}  # parameters per task


@pytest.fixture
def write_run(tmp_path):
    """Write one run, scored; with a seed it has a folder of its own below that of the experiment."""

    def write(name, hyps, *, seed=None, epochs=5):
        folder = tmp_path / "exp" / name / ("" if seed is None else str(seed))
        tasks = ["ann", "bob"] if SIZES[name] else []
        versions = {"torch": "2.11.0"}
        run = RunRecord(name, name.rstrip("64"), tasks, "9f3a", 100_000, 2 * SIZES[name], SIZES[name],
                        125.0 * bool(tasks), 900.0 + (seed or 0), epochs, 3, seed or 0, versions, None,
                        f"adaptkit train conf/{name}.yaml --seed {seed}")  # fmt: skip
        run.write(folder / "run.json")
        if tasks:
            events = [{"event": "step", "step": step, "loss": 9.0 - step} for step in (1, 2, 3)]
            events.append({"event": "valid", "step": 3, "wer": 12.0})
            (folder / "train.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events))
        decoded = folder / "decode_test"
        write_table(decoded / "text", hyps)
        DecodeRecord("test", len(REFS), 40.0, 10.0, 800.0, 1, not tasks).write(decoded / "run.json")
        score_files.write(score_files.score_files(tmp_path / "data", decoded), decoded)
        return folder

    write_table(tmp_path / "data/text", REFS)
    write_table(tmp_path / "data/utt2spk", {u: SPEAKERS[u.startswith("bob")] for u in REFS})
    return write


@pytest.fixture
def experiments(write_run):
    """The folders of an experiment without adapters and of one with."""
    return [write_run(name, hyps) for name, hyps in HYPS.items()]


@pytest.fixture
def seeded(write_run):
    """The folders of three experiments: the base alone, two seeds of residual64 and one of hra."""
    return [
        write_run("none", HYPS["none"]),
        write_run("residual64", REFS, seed=2, epochs=10),
        write_run("residual64", ANN_WRONG, seed=1),
        write_run("hra", ANN_WRONG, seed=1),
    ]
