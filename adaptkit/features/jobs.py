"""Features by an array of jobs, in the calling form of Kaldi's run.pl, queue.pl and slurm.pl.

The command `queue.pl JOB=1:8 OUT/log/feats.JOB.log adaptkit feats ... --job JOB` is run once. Each job makes
its share of the arks in a folder of that array, `OUT/.part-*`. Exit codes of jobs and of the array, which may
be lost with a machine, do not count: an ark is moved to its place only if its record and checksum are right
and it was made from the same speech. A job of an earlier array that is still running writes to a separate
folder.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from adaptkit.errors import AdaptkitError, DataError, counted, listed
from adaptkit.features.archive import find_damage, record_path
from adaptkit.features.fbank import FbankOptions
from adaptkit.files import explain_os_error, parse_json, read_text, remove, require_regular, write_text

_SHARES = "shares.json"
_PREFIX = ".part-"
_NAMES = ("JOB", "TASK", "ARRAY_INDEX")  # names for a job's number; another is used if a path contains one

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Array:
    """An array of jobs for the features of a data directory."""

    cmd: tuple[str, ...]  # such as queue.pl and its options
    data_dir: Path
    out_dir: Path
    options: FbankOptions
    num_jobs: int
    allow_pipes: bool


def run(array: Array, todo: Mapping[int, str]) -> None:
    """Make arks, given by number with digests of their sources; a missing ark is a DataError."""
    part = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=array.out_dir))
    part.chmod(0o777 & ~_umask())
    num_jobs = min(array.num_jobs, len(todo))
    shares = {str(job): sorted(todo)[job - 1 :: num_jobs] for job in range(1, num_jobs + 1)}
    write_text(part / _SHARES, json.dumps(shares))
    name, logs = _choose_name(array, part), array.out_dir / "log"
    logs.mkdir(exist_ok=True)
    figures = counted(len(todo), "ark"), counted(num_jobs, "job")
    log.info("%s: %s by %s of %s", array.out_dir, *figures, array.cmd[0])
    code = _call([*array.cmd, f"{name}=1:{num_jobs}", f"{logs}/feats.{name}.log", *_words(array, part, name)])
    missing = {number: _take(part, array.out_dir, number, made_of) for number, made_of in todo.items()}
    shutil.rmtree(part, ignore_errors=True)
    lost = [number for number, damage in missing.items() if damage]
    if lost:
        failed = [job for job, numbers in shares.items() if not set(numbers).isdisjoint(lost)]
        shown = listed([f"{logs}/feats.{job}.log" for job in failed], 3)
        ended = f"exit code {code} of {array.cmd[0]}" if code else f"{array.cmd[0]} reported no failure"
        raise DataError(
            f"{array.out_dir}: {len(lost)} of {len(todo)} arks were not made, by {len(failed)} of {num_jobs} "
            f"jobs ({ended}): see {shown}; the same command again makes only these arks"
        )
    if code:
        log.warning("%s: exit code %d, but every ark is there and whole", array.cmd[0], code)


def take_over(made_of: Mapping[int, str], out_dir: Path) -> None:
    """Take the intact arks of arrays whose `adaptkit feats` was killed, and remove their folders."""
    for part in sorted(out_dir.glob(f"{_PREFIX}*")):
        for ark in part.glob("feats.*.ark"):
            number = ark.name.split(".")[1]
            if number.isdecimal() and find_damage(out_dir / ark.name, made_of.get(int(number), "")):
                _take(part, out_dir, int(number), made_of.get(int(number), ""))
        shutil.rmtree(part, ignore_errors=True)


def read_share(part: Path, job: int) -> list[int]:
    """Return the numbers of a job's arks."""
    file = Path(part) / _SHARES
    try:
        require_regular(file)
        return [int(number) for number in parse_json(read_text(file))[str(job)]]
    except (AdaptkitError, ValueError, KeyError, TypeError) as error:
        what = f"no share of job {job} ({error})"
        remedy = "'adaptkit feats --cmd' writes it; an abandoned or outdated array is not needed"
        raise DataError(f"{file}: {what}; {remedy}") from error


def _take(part: Path, out_dir: Path, number: int, made_of: str) -> str:
    """Move an ark and then its record to their place; return why it cannot be taken; empty if it was."""
    made, ark = part / f"feats.{number}.ark", out_dir / f"feats.{number}.ark"
    damage = find_damage(made, made_of, allows_failures=True)
    if damage:
        return damage
    remove(record_path(ark))
    try:
        os.replace(made, ark)
        os.replace(record_path(made), record_path(ark))
    except OSError as error:
        raise AdaptkitError(explain_os_error(error, ark)) from error
    return ""


def _words(array: Array, part: Path, name: str) -> list[str]:
    """Return the command of a job; it runs the Python of this process."""
    options = ["--num-bins", str(array.options.num_bins), "--rate", str(array.options.rate_hz)]
    allowed = ["--allow-pipes"] if array.allow_pipes else []
    paths = [str(array.data_dir), str(array.out_dir)]
    return [
        sys.executable,
        "-m",
        "adaptkit",
        "feats",
        *paths,
        *options,
        *allowed,
        "--part",
        str(part),
        "--job",
        name,
    ]


def _choose_name(array: Array, part: Path) -> str:
    """Choose a name for the number of a job, which the command replaces wherever it occurs."""
    words = [*array.cmd, *_words(array, part, "")]
    for name in _NAMES:
        if not any(name in word for word in words):
            return name
    raise DataError(
        f"{array.out_dir}: a path contains each of {listed(_NAMES)}, which stand for a job number; rename it"
    )


def _call(words: list[str]) -> int:
    try:
        return subprocess.run(words, check=False).returncode
    except OSError as error:
        remedy = "give --cmd the name or path of run.pl, queue.pl or slurm.pl with its options"
        raise AdaptkitError(f"--cmd {words[0]}: cannot be run ({error.strerror}); {remedy}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
