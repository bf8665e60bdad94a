"""Experiments on disk, as a recipe leaves them."""

import json

import pytest

from adaptkit import result
from adaptkit.kaldi.tables import write_table
from adaptkit.record import DecodeRecord, RunRecord

SPEAKERS = ("ann", "bob & <co>")
REFS = {f"{name}-{number}": "a b c d" for name in ("ann", "bob") for number in range(5)}
HYPS = {
    "none": {utt_id: "a b x" for utt_id in REFS},  # one sub, one del: 50 %
    "residual64": {utt_id: "a b c x" if utt_id.startswith("ann") else "a b c d" for utt_id in REFS},  # 12.5 %
}
PARAMS = {"none": 0, "residual64": 5000}


def write_experiment(folder, name, sets=("test",)):
    """Write one experiment, with its score on each of the sets."""
    kind = name.rstrip("64")
    tasks = [] if kind == "none" else ["ann", "bob"]
    versions = {"torch": "2.11.0"}
    run = RunRecord(name, kind, tasks, "9f3a", 100_000, PARAMS[name], PARAMS[name] // 2, 125.0 * bool(tasks),
                    900.0, 3, 0, versions, None, f"adaptkit train conf/{name}.yaml")  # fmt: skip
    run.write(folder / "exp" / name / "run.json")
    if tasks:
        events = [{"event": "step", "step": step, "loss": 9.0 - step} for step in (1, 2, 3)]
        events.append({"event": "valid", "step": 3, "wer": 12.0})
        lines = "".join(f"{json.dumps(event)}\n" for event in events)
        (folder / "exp" / name / "train.jsonl").write_text(lines)
    for set_name in sets:
        decoded = folder / "exp" / name / f"decode_{set_name}"
        write_table(decoded / "text", HYPS[name])
        DecodeRecord(name, set_name, len(REFS), 40.0, 10.0, 800.0, 1, kind == "none").write(
            decoded / "run.json"
        )
        result.write(result.score_files(folder / "data", decoded), decoded)
    return folder / "exp" / name


@pytest.fixture
def experiments(tmp_path):
    """The folders of an experiment without adapters and of one with."""
    write_table(tmp_path / "data/text", REFS)
    write_table(tmp_path / "data/utt2spk", {u: SPEAKERS[u.startswith("bob")] for u in REFS})
    return [write_experiment(tmp_path, name) for name in HYPS]
