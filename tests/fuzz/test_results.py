"""Damaged experiment folders and texts, given to `report` and `score`.

Each input is either refused with one clear message or gives the result of the undamaged folder; what a reader
may skip, such as a damaged line of a training log, changes no figure that was scored.
"""

import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from adaptkit.errors import AdaptkitError
from adaptkit.kaldi.tables import write_table
from adaptkit.records import DecodeRecord, RunRecord
from adaptkit.report import html, runs, summary
from adaptkit.scoring import files as score_files

SPEAKERS = ("ann", "bob", "<b>|`x`")
REFS = {f"spk{n % 3}-{n}": "a b c d" for n in range(6)}
HYPS = {"none": "a b x", "residual": "a b c x"}
FIGURES = [50.0, 25.0]  # WER in percent
VALUES = (
    *(None, True, -1, 0, 1, 2.5, 1e300, float("nan"), float("inf"), 10**20, 10**400),
    *("", "x", "\ud800", "a\nb\x1b[2J", [], [1], {}, {"a": 1}),
)
CHARACTERS = (
    "\r",
    "\n",
    "\u3000",
    "\u200b",
    "\ufeff",
    "\u2028",
    "\0",
    "\udcff",
    "\u200d",
    "e\u0301",
    "\t",
    " ",
)


@dataclass(frozen=True)
class Case:
    """One damaged file below a folder of experiments, and how it was damaged."""

    number: int
    file: str
    damage: str
    content: bytes

    def __str__(self) -> str:
        return f"{self.number}: {self.file} {self.damage}"


def make_folder(folder: Path) -> None:
    """Write references and two scored experiments."""
    write_table(folder / "data/test/text", REFS)
    write_table(folder / "data/test/utt2spk", {u: SPEAKERS[int(u[3])] for u in REFS})
    for name, hyp in HYPS.items():
        exp, size = folder / "exp" / name, 0 if name == "none" else 50
        figures = (1000, 3 * size, size, 12.0, 900.0, 2, 3, 0, {"torch": "2"}, None, "adaptkit train")
        RunRecord(name, name, list(SPEAKERS), "9f3a", *figures).write(exp / "run.json")
        events = [{"event": "step", "step": step, "loss": 9.0 - step} for step in (1, 2, 3)]
        events.append({"event": "valid", "step": 3, "wer": 12.0})
        (exp / "train.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events))
        (exp / "config.yaml").write_text(f"name: {name}\ntrain: {{lr: 0.01, seed: 0}}\n")
        decoded = exp / "decode_test"
        write_table(decoded / "text", dict.fromkeys(REFS, hyp))
        DecodeRecord("test", len(REFS), 40.0, 10.0, 800.0, 1, name == "none").write(decoded / "run.json")
        score_files.write(score_files.score_files(folder / "data/test", decoded), decoded)


def cases(seed: int, count: int) -> Iterator[Case]:
    """Yield `count` damaged files of the folder of `make_folder`; the same for the same seed."""
    originals = _read_originals()
    for number in range(count):
        rng = random.Random(f"results/{seed}/{number}")
        file = rng.choice(sorted(originals))
        ways = [_damage_bytes, _damage_text] + [_damage_json] * 3 * file.endswith((".json", ".jsonl"))
        damage, content = rng.choice(ways)(originals[file], rng)
        yield Case(number, file, damage, content)


def run_case(case: Case, whole: Path, folder: Path) -> str:
    """Try one case on a copy of the whole folder; return `right` or `refused`, and raise what is a fault."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    (folder / case.file).write_bytes(case.content)
    exps = [folder / "exp" / name for name in HYPS]
    forms = [summary.as_table, summary.as_markdown, *([html.render_page] if case.number % 5 == 0 else [])]
    outcomes = [
        _try(lambda: _report(exps, forms), expected=FIGURES),
        _try(lambda: _score(folder), expected=None),
    ]
    return "refused" if "refused" in outcomes else "right"


def _read_originals() -> dict[str, bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        make_folder(Path(name))
        files = (path for path in sorted(Path(name).rglob("*")) if path.is_file() and path.name[0] != ".")
        return {str(path.relative_to(name)): path.read_bytes() for path in files if path.name != "RESULT"}


def _try(run: Callable[[], object], *, expected: object) -> str:
    try:
        found = run()
    except AdaptkitError as error:
        message = str(error)
    else:
        assert expected is None or found == expected
        return "right"
    assert 10 < len(message) < 4000
    return "refused"


def _report(exps: list[Path], forms: Sequence[Callable[[runs.Comparison], str]]) -> list[float]:
    """Make a report in some forms; return the error rates."""
    comparison = runs.load(exps)
    for form in forms:
        form(comparison).encode()
    rows = json.loads(summary.as_json(comparison))
    return [row["wer"] for row in rows]


def _score(folder: Path) -> str:
    decoded = [folder / "exp" / name / "decode_test" for name in HYPS]
    report = score_files.score_files(folder / "data/test", decoded[1], other=decoded[0])
    return score_files.format_report(score_files.from_json(json.loads(score_files.dump_json(report))))


def _damage_bytes(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    at = rng.randrange(len(content) + 1)
    way = rng.choice(["cut", "flip", "zero", "double", "empty", "brackets"])
    if way == "cut":
        return f"cut at {at}", content[:at]
    if way == "flip":
        bit = 1 << rng.randrange(8)
        return f"bit {bit} of {at}", content[:at] + bytes(b ^ bit for b in content[at : at + 1]) + content[
            at + 1 :
        ]
    if way == "zero":
        return f"zeros from {at}", content[:at] + bytes(len(content) - at)
    if way == "brackets" and not content.startswith(b"name:"):  # deep yaml has tests of its own
        return "brackets", b"[" * 10_000
    return (way, content + content) if way == "double" else (way, b"")


def _damage_text(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    at, character = rng.randrange(len(content) + 1), rng.choice(CHARACTERS)
    inserted = character.encode(errors="surrogateescape")
    return f"{ascii(character)} at {at}", content[:at] + inserted + content[at:]


def _damage_json(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Change a value, drop or rename a key, of a json file or of a line of one."""
    lines = content.decode().splitlines() if content.startswith(b'{"event"') else [content.decode()]
    index = rng.randrange(len(lines))
    data = json.loads(lines[index])
    place: dict | list = data
    while True:
        key = rng.choice(sorted(place) if isinstance(place, dict) else list(range(len(place))))
        if not isinstance(place[key], dict | list) or not place[key] or rng.random() < 0.3:
            break
        place = place[key]
    way, value = rng.choice(["set", "set", "drop"]), rng.choice(VALUES)
    if way == "drop":
        del place[key]
    else:
        place[key] = value
    lines[index] = json.dumps(data)
    return f"{way} {key} {ascii(value)[:30] if way == 'set' else ''}", "\n".join(lines).encode()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The undamaged folder; not to be changed."""
    folder = tmp_path_factory.mktemp("results")
    make_folder(folder)
    return folder


def test_undamaged_folder_is_reported(whole, tmp_path):
    content = (whole / "exp/none/train.jsonl").read_bytes()
    assert run_case(Case(0, "exp/none/train.jsonl", "none", content), whole, tmp_path / "tried") == "right"


@pytest.mark.slow
def test_damage_is_refused_or_changes_no_result(whole, tmp_path):
    outcomes = {str(case): run_case(case, whole, tmp_path / "tried") for case in cases(seed=0, count=60)}
    assert set(outcomes.values()) == {"right", "refused"}
