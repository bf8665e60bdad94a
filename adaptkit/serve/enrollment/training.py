"""The process of a job: `python -m adaptkit.serve.enrollment.training SPEC`, which trains one speaker.

It packs what the folder of Submodels has to start from into an experiment, and enrolls the speaker in that
one as `adaptkit submodels enroll` does. It ends when its standard input is closed, as the end of the server
closes it, however that ends.
"""

import json
import logging
import math
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Thread

from adaptkit.adapters import api
from adaptkit.adapters.per_task import SHARED, shared_parameters, task_parameters
from adaptkit.base import checkpoint as base_checkpoint
from adaptkit.base.checkpoint import BaseModel
from adaptkit.errors import AdaptkitError, CheckpointError
from adaptkit.features import extract
from adaptkit.features.fbank import FbankOptions
from adaptkit.files import is_disk_full, parse_json, read_text, write_text
from adaptkit.folders import RunFolder
from adaptkit.model import checkpoint
from adaptkit.model.adapted import AdaptedModel
from adaptkit.records import read_log
from adaptkit.submodels import export
from adaptkit.submodels.files import SHARED_FILE, Submodel, file_name, read_shared, write
from adaptkit.training.enroll import enroll
from adaptkit.training.enroll_options import EnrollOptions
from adaptkit.training.run import read_set
from adaptkit.training.validation import choose_metric, validate

_LOG = logging.getLogger(__name__)
MAX_EPOCHS = 20
DISK_FULL = os.EX_IOERR  # the exit code that says so, as a file could not
# rates and epochs as docs/few_utterances.md advises: a few steps per epoch, with a start that is never lost
_TRAINING = (
    f"train.max_epochs={MAX_EPOCHS}",
    "train.lr=3e-3",
    "train.warmup_steps=4",
    "train.schedule=cosine",
    "train.task_utterances=4",
    "train.batch_frames=4000",
    "train.patience=8",
)
_BATCH_FRAMES = 4000
_MOST_COMPARED = 50  # voices among which the nearest is looked for


@dataclass(frozen=True)
class Spec:
    """What a job is to train, as json in a file."""

    speaker: str
    base: str  # folder of the base model
    submodels: str  # folder of Submodels
    work: str  # folder of the job, with the data directories `train` and `valid`
    device: str
    nice: int = 0  # priority: 19 is the lowest, at which the server answers first

    @property
    def folder(self) -> Path:
        """The folder of the job."""
        return Path(self.work)

    @property
    def path(self) -> Path:
        """The file of this."""
        return self.folder / "spec.json"

    @property
    def result(self) -> Path:
        """The file of the result."""
        return self.folder / "result.json"

    @property
    def trained(self) -> RunFolder:
        """The folder of the trained adapters."""
        return RunFolder(self.folder / "out")


@dataclass(frozen=True)
class Result:
    """The outcome of a job, as json in a file; an error alone if it could not be trained."""

    error: str = ""
    is_better: bool = False
    wer_start: float | None = None
    wer_new: float | None = None
    start: str = ""  # what was started from, and compared with


@dataclass(frozen=True)
class _Measured:
    """What a validation has shown."""

    metric: float  # of WER or, for languages without spaces, CER, percent
    loss: float
    wer: float

    @property
    def rank(self) -> tuple[float, float]:
        """Lower is better; equal error rates are decided by the loss, as in any training."""
        return self.metric, self.loss


def train(spec: Spec) -> Result:
    """Train a speaker's Submodel and compare it with what serves that speaker now."""
    device, folder = spec.device, spec.folder
    base = base_checkpoint.load(Path(spec.base), device)
    where = _gather(Path(spec.submodels), folder / "pool", spec.speaker, base)
    export.pack(folder / "pool", base, folder / "exp", skip_problems=True)
    before = _measure_own(spec, base)
    options = EnrollOptions(
        exp=folder / "exp",
        data=_with_feats(folder / "train", base),
        valid=_with_feats(folder / "valid", base),
        speakers=(spec.speaker,),
        start=where,
        out=spec.trained.path,
        base=Path(spec.base),
        overrides=_TRAINING,
    )
    enroll(options, device=device, base=base)
    start, *later = read_validations(spec.trained)
    compared = before or start
    best = min(later, key=lambda one: one.rank, default=start)
    is_better = best.rank < min(compared.rank, start.rank)
    said = {"shared": "the shared adapter", "nearest": "the nearest voice", "new": "the base model"}[where]
    rates = (one.wer if math.isfinite(one.wer) else None for one in (compared, best))
    return Result("", is_better, *rates, start="your present voice" if before else said)


def _with_feats(data: Path, base: BaseModel) -> Path:
    """Return a data directory as the base model reads it: with features, if it reads those."""
    if base.features is None:
        return data
    made = data.with_name(f"{data.name}_feats")
    if not made.exists():
        extract.extract(data, made, FbankOptions.from_dict(base.features))
    return made


def read_validations(folder: RunFolder) -> list[_Measured]:
    """Read what the training of one speaker has measured so far, the start first."""
    logs = sorted(folder.enrolled.glob("*/train.jsonl")) if folder.enrolled.exists() else ()
    found = []
    for event in (event for log in logs for event in read_log(log) if event["event"] == "valid"):
        figures = (event.get(name) for name in (event.get("metric", "wer"), "loss", "wer"))
        found.append(_Measured(*(math.inf if figure is None else figure for figure in figures)))
    return found


def _gather(submodels: Path, pool: Path, speaker: str, base: BaseModel) -> str:
    """Copy the Submodels that the speaker may start from; return where that is, as enrollment names it."""
    pool.mkdir()
    shutil.copyfile(submodels / SHARED_FILE, pool / SHARED_FILE)
    usable = [entry for entry in export.scan(submodels, base) if not entry.problem and entry.task != speaker]
    shared = [entry for entry in usable if entry.task == SHARED]
    for entry in shared or usable[:_MOST_COMPARED]:
        shutil.copyfile(entry.path, pool / entry.path.name)
    if usable:
        return "shared" if shared else "nearest"
    write(pool, _untrained(pool, base))
    return "new"


def _untrained(pool: Path, base: BaseModel) -> Submodel:
    """Return a Submodel that changes nothing, from which a folder without any can be packed."""
    shared = read_shared(pool)
    stack = api.build(shared.adapters, base.sites, ("untrained",), seed=0)
    for name, parameter in shared_parameters(stack):
        parameter.data.copy_(shared.weights[name])
    weights = {name: parameter.detach()[0].clone() for name, parameter in task_parameters(stack)}
    return Submodel("untrained", shared.adapters, shared.base_fingerprint, shared.fingerprint, 0, weights)


def _measure_own(spec: Spec, base: BaseModel) -> _Measured | None:
    """Validate the Submodel that the speaker has now; None if there is none that can be used."""
    path, pool = Path(spec.submodels) / file_name(spec.speaker), spec.folder / "own"
    if not path.exists():
        return None
    pool.mkdir()
    shutil.copyfile(path.parent / SHARED_FILE, pool / SHARED_FILE)
    shutil.copyfile(path, pool / path.name)
    try:
        export.pack(pool, base, spec.folder / "own_exp")
    except CheckpointError as error:  # damaged, or of other adapters: as good as none
        _LOG.warning("%s", error)
        return None
    adapter = RunFolder(spec.folder / "own_exp").adapter
    stack = checkpoint.restore(checkpoint.load(adapter), base, adapter)
    valid = replace(read_set(_with_feats(spec.folder / "valid", base), base), task_ids={spec.speaker: 0})
    adapted = AdaptedModel(base, stack).eval()
    with adapted.hooked():
        found = validate(adapted, valid, _BATCH_FRAMES, choose_metric("auto", valid))
    return _Measured(found.value, found.loss, found.wer)


def _leave_with_server() -> None:
    """End this process, and what it started, once the server closes the other end of standard input."""
    while os.read(sys.stdin.fileno(), 1):  # unbuffered: the lock of a buffer would be missed at the end
        pass
    os.killpg(0, signal.SIGKILL)


def main(words: Sequence[str]) -> None:
    """Run the job of a file at its priority; write its result beside."""
    os.setpgid(0, 0)
    Thread(target=_leave_with_server, daemon=True).start()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    spec = Spec(**parse_json(read_text(Path(words[0]))))
    os.nice(spec.nice)
    try:
        write_text(spec.result, json.dumps(asdict(_try(spec))))
    except (AdaptkitError, OSError) as error:
        if not is_disk_full(error):
            raise
        _LOG.error("%s", error)
        os._exit(DISK_FULL)  # an exit that fails to write the rest of the log has another code


def _try(spec: Spec) -> Result:
    """Run a job; an error that says what is wrong, but for a full disk, is its result."""
    try:
        return train(spec)
    except AdaptkitError as error:
        if is_disk_full(error):
            raise
        return Result(error=str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
