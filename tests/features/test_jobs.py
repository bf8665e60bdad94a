"""Arrays of jobs: only whole arks are taken, whatever the jobs and the scheduler say."""

import shutil
import stat
import sys

import numpy as np
import pytest
import soundfile

from adaptkit.errors import AdaptkitError, DataError
from adaptkit.features import extract as dump
from adaptkit.features.archive import load_feats
from adaptkit.features.fbank import FbankOptions
from adaptkit.kaldi import datadir
from adaptkit.kaldi.datadir import DataDir, Utterance

OPTIONS = FbankOptions(num_bins=20)

# What Kaldi's queue.pl and slurm.pl do, but for the cluster: write an array job file that reads the number
# of its task, run it for each, and believe the exit codes in the logs. A job named by LOST
# dies without leaving one.
SCHEDULER = """#!{python}
import os, pathlib, re, shlex, subprocess, sys
words, variable = sys.argv[1:], "{variable}"
while words[0].startswith("-"):
    del words[:2]  # --mem 4G
name, first, last = re.fullmatch(r"([A-Za-z_]\\w*)=(\\d+):(\\d+)", words[0]).groups()
log, here = words[1], pathlib.Path(__file__).parent
task = "${{" + variable + "}}"
shown = (shlex.quote(word).replace(name, task) for word in words[2:])
(here / "array.sh").write_text("set -e\\n" + " ".join(shown) + "\\n")
unfinished = []
for job in range(int(first), int(last) + 1):
    file = log.replace(name, str(job))
    env = dict(os.environ, **{{variable: str(job)}})
    with open(file, "w") as out:
        if str(job) == os.environ.get("LOST"):
            print("# Running on a machine that goes down", file=out)
        else:
            code = subprocess.run(["bash", here / "array.sh"], env=env, stdout=out, stderr=out).returncode
            print("# Ended (code %d)" % code, file=out)
    if "# Ended (code 0)" not in open(file).read():
        unfinished.append(file)
(here / "called").write_text(" ".join(sys.argv[1:3]))
if unfinished:
    sys.exit("%d jobs failed or were lost: %s" % (len(unfinished), unfinished))
"""


def script(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def new_data(folder, num_utterances, sec=0.1):
    noise = np.random.default_rng(0).normal(0, 0.1, round(16000 * sec * num_utterances))
    soundfile.write(folder / "call.wav", noise, 16000, subtype="PCM_16")
    spans = [(round(sec * number, 3), round(sec * (number + 1), 3)) for number in range(num_utterances)]
    utterances = tuple(Utterance(f"bob-{n:04d}", "bob", "call", "YES", *span) for n, span in enumerate(spans))
    made = DataDir(folder / "data", utterances, {"call": str(folder / "call.wav")})
    datadir.write(made)
    return made


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Eight utterances, two an ark."""
    monkeypatch.setattr(dump, "SHARD_UTTERANCES", 2)
    return new_data(tmp_path, 8)


@pytest.fixture
def prepared(tmp_path, data):
    """The arks that good jobs would make."""
    dump.extract(data.path, tmp_path / "good", OPTIONS)
    return tmp_path / "good"


def copying(tmp_path, prepared, names, then=""):
    """A scheduler whose jobs leave some arks in the folder of their array."""
    lines = [f'cp "{prepared}/feats."{names}.* "$part"/', then]
    return [script(tmp_path / "queue.pl", "#!/bin/bash\npart=${@: -3:1}\n" + "\n".join(lines) + "\n")]


def same(one, other):
    pairs = zip(one.feats.items(), other.feats.items(), strict=True)
    return all(a == b and load_feats(x).equal(load_feats(y)) for (a, x), (b, y) in pairs)


def test_whole_arks_of_an_array_are_moved_to_their_place(tmp_path, data, prepared):
    cmd = copying(tmp_path, prepared, "[0-9]")
    made = dump.extract(data.path, tmp_path / "out", OPTIONS, num_jobs=3, cmd=cmd)
    assert same(made, dump.extract(data.path, prepared, OPTIONS))
    assert not list((tmp_path / "out").glob(".part-*"))


def test_every_ark_counts_for_more_than_the_exit_code(tmp_path, data, prepared, caplog):
    cmd = copying(tmp_path, prepared, "[0-9]", "exit 3")
    assert len(dump.extract(data.path, tmp_path / "out", OPTIONS, cmd=cmd).feats) == 8
    assert "exit code 3, but every ark is there and whole" in caplog.text


@pytest.mark.parametrize(
    ("then", "message"),
    [
        ('rm "$part"/feats.2.json', "1 of 4 arks were not made, by 1 of 2 jobs"),
        (
            'truncate -s -1 "$part"/feats.3.ark; exit 1',
            r"by 1 of 2 jobs \(exit code 1 of .*/out/log/feats.1.log",
        ),
        (
            'cp "$part"/feats.1.ark "$part"/feats.4.ark',
            "by 1 of 2 jobs .*reported no failure.*/log/feats.2.log",
        ),
        ('cp "$part"/feats.1.json "$part"/feats.4.json', "1 of 4 arks"),
        ('rm -r "$part"', "4 of 4 arks were not made, by 2 of 2 jobs"),
    ],
)
def test_what_is_not_whole_is_not_taken_and_alone_made_again(tmp_path, data, prepared, then, message):
    cmd = copying(tmp_path, prepared, "[0-9]", then)
    with pytest.raises(DataError, match=message):
        dump.extract(data.path, tmp_path / "out", OPTIONS, num_jobs=2, cmd=cmd)
    assert not (tmp_path / "out/feats.scp").exists()
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("feats.*.ark")}
    made = dump.extract(data.path, tmp_path / "out", OPTIONS)
    assert same(made, dump.extract(data.path, prepared, OPTIONS))
    assert all(file.stat().st_mtime_ns == before for file, before in kept.items())
    assert len(kept) == (0 if "-r" in then else 3)


def test_job_makes_its_share_in_the_folder_of_the_array(tmp_path, data, prepared):
    part = tmp_path / "out/.part-x"
    part.mkdir(parents=True)
    (part / "shares.json").write_text('{"1": [1, 3], "2": [2, 4]}')
    dump.extract_part(data.path, part, 2, OPTIONS)
    assert sorted(file.name for file in part.glob("*.ark")) == ["feats.2.ark", "feats.4.ark"]
    with pytest.raises(DataError, match="no share of job 3"):
        dump.extract_part(data.path, part, 3, OPTIONS)
    shutil.copy(part / "feats.2.ark", part / "feats.3.ark")  # without a record: half made
    (tmp_path / "queue").mkdir()
    cmd = copying(tmp_path, prepared, "[13]")  # the restart makes what is missing, and takes the rest over
    assert same(
        dump.extract(data.path, tmp_path / "out", OPTIONS, cmd=cmd),
        dump.extract(data.path, prepared, OPTIONS),
    )
    assert not part.exists()


def test_part_of_an_array_for_other_data_is_dropped(tmp_path, data, prepared):
    (tmp_path / "out").mkdir()
    shutil.copytree(prepared, tmp_path / "out/.part-old")
    other = FbankOptions(num_bins=23)
    made = dump.extract(data.path, tmp_path / "out", other)
    assert load_feats(next(iter(made.feats.values()))).shape[1] == 23


def test_command_that_is_not_there_is_named(tmp_path, data):
    with pytest.raises(AdaptkitError, match="--cmd no-queue.pl: cannot be run .*give --cmd the name or path"):
        dump.extract(data.path, tmp_path / "out", OPTIONS, cmd=["no-queue.pl", "--mem", "4G"])


def test_number_of_a_job_is_named_as_no_path_is(tmp_path, data):
    cmd = [script(tmp_path / "queue.pl", f'#!/bin/bash\necho "$@" >{tmp_path}/words\n')]
    for folder, name in (("out", "JOB=1:2 "), ("JOBS", "TASK=1:2 ")):
        with pytest.raises(DataError, match="4 of 4 arks"):
            dump.extract(data.path, tmp_path / folder, OPTIONS, num_jobs=2, cmd=cmd)
        words = (tmp_path / "words").read_text()
        assert words.startswith(
            name + f"{tmp_path}/{folder}/log/feats.{name[:-5]}.log {sys.executable} -m adaptkit"
        )
    with pytest.raises(DataError, match="a path contains each of JOB, TASK"):
        dump.extract(data.path, tmp_path / "JOB-TASK-ARRAY_INDEX", OPTIONS, cmd=cmd)


@pytest.mark.slow
def test_lost_job_is_made_up_for_by_another_scheduler(tmp_path, monkeypatch):
    data = new_data(tmp_path, 1100, sec=0.03)  # three arks of one frame an utterance
    queue = script(tmp_path / "sge/queue.pl", SCHEDULER.format(python=sys.executable, variable="SGE_TASK_ID"))
    slurm = script(
        tmp_path / "s/slurm.pl", SCHEDULER.format(python=sys.executable, variable="SLURM_ARRAY_TASK_ID")
    )
    monkeypatch.setenv("LOST", "2")
    with pytest.raises(DataError, match=r"1 of 3 arks were not made, by 1 of 2 jobs .*feats.2.log"):
        dump.extract(data.path, tmp_path / "out", OPTIONS, num_jobs=2, cmd=[queue, "--mem", "4G"])
    made = dump.extract(data.path, tmp_path / "out", OPTIONS, num_jobs=2, cmd=[slurm])
    assert (tmp_path / "s/called").read_text().startswith("JOB=1:1 ")
    assert same(made, dump.extract(data.path, tmp_path / "threads", OPTIONS))
