"""Commands that write to a folder while another process does: refused, and nothing in the folder changes."""

import json
import os
import subprocess

import pytest

from adaptkit import experiment


@pytest.fixture
def yaml(settings, tmp_path):
    path = tmp_path / "tiny.yaml"
    experiment.save(settings(max_epochs=3), path)
    return path


@pytest.fixture
def noise(tmp_path, noises):
    path = tmp_path / "noise.yaml"
    path.write_text(f"noise: {{noises: ['{noises}'], snr_db: [10, 10]}}\n")
    return path


def words_of(command, *, corpus, exp, yaml, noise, out):
    """What the shell is given for a command that writes to `out`."""
    data, dump = corpus / "data/valid", corpus / "dump/valid"
    base = (
        "--set",
        "base.model=mini",
        "--set",
        f"base.data.train={dump}",
        "--set",
        f"base.data.valid={dump}",
    )
    return {
        "train": ("train", yaml, "--exp", out),
        "base train": ("base", "train", yaml, "--exp", out, *base),
        "decode": ("decode", exp, dump, "--out", out),
        "score": ("score", data, out),
        "feats": ("feats", data, out, "--rate", 8000, "--num-bins", 10),
        "augment copy": ("augment", "copy", data, out, "--policy", noise, "--rate", 8000),
        "adapters prune": ("adapters", "prune", exp, "--data", dump, "--out", out),
        "adapters fold": ("adapters", "fold", exp, "--speaker", "spk1", "--out", out),
        "data subset": ("data", "subset", data, out, "--first", 2),
        "data combine": ("data", "combine", out, data, data),
        "data fix": ("data", "fix", out),
    }[command]


COMMANDS = ["train", "base train", "decode", "score", "feats", "augment copy", "adapters prune"]
COMMANDS += ["adapters fold", "data subset", "data combine", "data fix"]


@pytest.mark.parametrize("command", COMMANDS)
def test_second_writer_is_refused_and_changes_nothing(
    command, adaptkit, corpus, new_exp, yaml, noise, hold, content, tmp_path
):
    exp, out = new_exp(kind="lora", rank=2) if "fold" in command else new_exp(), tmp_path / "out"
    words = words_of(command, corpus=corpus, exp=exp, yaml=yaml, noise=noise, out=out)
    out.mkdir()
    if command == "score":
        (out / "text").write_bytes((corpus / "data/valid/text").read_bytes())
    if command == "data fix":
        for name in ("wav.scp", "text", "utt2spk"):
            lines = (corpus / "data/valid" / name).read_text()
            (out / name).write_text(lines + "\n")
    before = content(out)
    holder = hold(out)
    done = adaptkit(*words)
    assert f"{out}: process {holder.pid} on " in done.stderr, done
    assert "wait until that has ended, or use another folder" in done.stderr
    assert (done.exit_code, {**content(out), str(out / ".lock"): b""}) == (
        1,
        {**before, str(out / ".lock"): b""},
    )
    holder.stdin.close()
    holder.wait()
    again = adaptkit(*words)
    assert "is writing to it" not in again.stderr
    assert again.exit_code == (1 if command == "base train" else 0), again  # this one has no statistics
    assert not (out / ".lock").exists()


@pytest.mark.slow
def test_two_trainings_in_one_folder_leave_one_result(forking, yaml, tmp_path, tensors_in):
    command = ["adaptkit", "train", str(yaml), "--device", "cpu", "--exp"]
    both, alone = tmp_path / "both", tmp_path / "alone"
    pipe = subprocess.PIPE
    started = [subprocess.Popen([*command, str(both)], env=forking, stderr=pipe, text=True) for _ in "ab"]
    messages = [process.communicate()[1] for process in started]
    codes = sorted(process.returncode for process in started)
    assert codes == [0, 1], messages
    refused = next(m for m, process in zip(messages, started, strict=True) if process.returncode)
    assert "is writing to it" in refused or "--resume" in refused  # the latter if they did not overlap
    subprocess.run([*command, str(alone)], env=forking, check=True, stderr=subprocess.DEVNULL)
    steps = [
        [json.loads(line).get("step") for line in (folder / "train.jsonl").read_text().splitlines()]
        for folder in (both, alone)
    ]
    assert steps[0] == steps[1]
    assert (both / "adapter.safetensors").read_bytes() == (alone / "adapter.safetensors").read_bytes()
    assert not [name for name in os.listdir(both) if name.startswith(".")]
