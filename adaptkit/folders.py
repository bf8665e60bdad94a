"""The folders written by training and decoding, and the names of the files in them."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from adaptkit.errors import AdaptkitError
from adaptkit.files import explain_os_error, remove


def named(path: Path) -> Path:
    """Return a path that ends with the name of its folder, which `.` and `..` do not.

    >>> named(Path("/data/test/.")).name, named(Path("/data/test/..")).name
    ('test', 'data')
    """
    return Path(os.path.abspath(path)) if path.name in ("", "..") else path


@dataclass(frozen=True)
class RunFolder:
    """The folder of an experiment or of a base model, and the names of the files in it.

    >>> RunFolder(Path("exp/residual")).decoded("test").name
    'decode_test'
    """

    path: Path

    @property
    def config(self) -> Path:
        """The resolved experiment; for a base model, ESPnet's own configuration."""
        return self.path / "config.yaml"

    @property
    def model(self) -> Path:
        """The weights of a base model."""
        return self.path / "model.pth"

    @property
    def adapter(self) -> Path:
        """The adapters used for decoding."""
        return self.path / "adapter.safetensors"

    @property
    def speakers(self) -> Path:
        """The embeddings of the speakers whose adapters are used for decoding."""
        return self.path / "speakers.safetensors"

    @property
    def start(self) -> Path:
        """The adapters that training started from, if it was given any (`train.start`)."""
        return self.path / "start.safetensors"

    @property
    def state(self) -> Path:
        """Everything needed to resume an interrupted training run."""
        return self.path / "state.safetensors"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints from which the best are selected."""
        return self.path / "checkpoints"

    @property
    def log(self) -> Path:
        """The training log: one line of json per optimizer step and validation."""
        return self.path / "train.jsonl"

    @property
    def validation(self) -> Path:
        """What the last validation has shown of each speaker, and its best one, as a table."""
        return self.path / "validation.tsv"

    @property
    def record(self) -> Path:
        """The record of the finished run."""
        return self.path / "run.json"

    @property
    def speaker_table(self) -> Path:
        """The speakers of the record, as a table, if they are too many for the record itself."""
        return self.path / "speakers.tsv"

    @property
    def origin(self) -> Path:
        """Where an imported base model comes from."""
        return self.path / "import.json"

    @property
    def is_begun(self) -> bool:
        """Whether a run has begun here, if only with its trials."""
        return self.state.exists() or self.trials.exists()

    @property
    def is_unfinished(self) -> bool:
        """Whether a training began here and has not finished; a model made elsewhere has none of these."""
        return (self.state.exists() or self.log.exists()) and not self.record.exists()

    @property
    def enrolled(self) -> Path:
        """The folder in which new speakers are trained before they are added to the adapters."""
        return self.path / "added"

    @property
    def trials(self) -> Path:
        """The folder of the trials that choose learning rates and numbers of epochs, a run in each."""
        return self.path / "trials"

    @property
    def selection(self) -> Path:
        """The learning rate and number of epochs that trials chose for each speaker, as a table."""
        return self.path / "selection.tsv"

    def decoded(self, set_name: str) -> Path:
        """Return the folder with the hypotheses for a data set."""
        return self.path / f"decode_{set_name}"

    def decoded_sets(self) -> list[str]:
        """List the data sets that have hypotheses, sorted."""
        return sorted(
            path.name.removeprefix("decode_") for path in self.path.glob("decode_*") if path.is_dir()
        )


@dataclass(frozen=True)
class DecodeFolder:
    """The folder with the hypotheses for a data set, and the names of the files in it."""

    path: Path

    @property
    def name(self) -> str:
        """What the folder is named after: its set, with the search where several are compared (test_beam)."""
        return self.path.name.removeprefix("decode_")

    @property
    def text(self) -> Path:
        """The hypotheses, as a Kaldi table."""
        return self.path / "text"

    @property
    def scores(self) -> Path:
        """The log probability of each hypothesis."""
        return self.path / "utt2score"

    @property
    def routes(self) -> Path:
        """What was chosen for each utterance, if its weights were not chosen by the speaker's name."""
        return self.path / "routes.tsv"

    @property
    def nbest(self) -> Path:
        """The folder of n-best lists, if there are any."""
        return self.path / "nbest"

    def ranked(self, rank: int) -> Path:
        """Return the folder of the hypotheses of a rank, 1 for the best."""
        return self.nbest / f"{rank}best_recog"

    @property
    def record(self) -> Path:
        """The record of the decoding run."""
        return self.path / "run.json"

    @property
    def score(self) -> Path:
        """The error counts, once scored."""
        return self.path / "score.json"

    @property
    def result(self) -> Path:
        """The error rates in Kaldi's format, once scored."""
        return self.path / "RESULT"

    def clear(self) -> None:
        """Remove what was made from earlier hypotheses, before others are written."""
        for path in (self.record, self.score, self.result, self.routes):
            remove(path)
        try:
            if self.nbest.exists():
                shutil.rmtree(self.nbest)
        except OSError as error:
            raise AdaptkitError(explain_os_error(error, self.nbest)) from error

    @property
    def run(self) -> RunFolder:
        """The folder of the experiment or base model used for decoding."""
        return RunFolder(self.path.parent)
