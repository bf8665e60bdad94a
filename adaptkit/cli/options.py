"""Options shared by commands, and the format of their help."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from adaptkit.cli.refusals import refuse_twice

if TYPE_CHECKING:
    from adaptkit.base.checkpoint import BaseModel


class Command(TyperCommand):
    """A command whose help ends with an example on one unwrapped line."""

    def __init__(self, *args: Any, **options: Any):
        text, _, self.example = options.pop("help", "").partition("\n\nExample: ")
        super().__init__(*args, help=text, **options)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help, then the example, ready to paste."""
        super().format_help(ctx, formatter)
        typer.echo(f" Example:\n\n   {self.example.strip()}\n")


class UnknownSpeaker(str, Enum):
    """How to treat the utterances of a speaker without an adapter."""

    error = "error"
    base = "base"


class UnknownRequest(str, Enum):
    """How a server treats requests of a speaker without a Submodel, or without a speaker."""

    error = "error"
    base = "base"
    shared = "shared"
    likelihood = "likelihood"
    embedding = "embedding"


class RouteMethod(str, Enum):
    """How the weights for an utterance are chosen."""

    own = "own"
    shared = "shared"
    likelihood = "likelihood"
    embedding = "embedding"


class RouteBy(str, Enum):
    """What weights are chosen for at a time."""

    utterance = "utterance"
    speaker = "speaker"


class Start(str, Enum):
    """How to initialise the weights of a new speaker."""

    mean = "mean"
    nearest = "nearest"
    new = "new"
    shared = "shared"


class TableFormat(str, Enum):
    """The output format of a list."""

    table = "table"
    json = "json"


class CorpusLayout(str, Enum):
    """A layout of corpora that can be imported."""

    audiofolder = "audiofolder"
    table = "table"
    lhotse = "lhotse"
    sap = "sap"
    folders = "folders"


class TranscriptFormat(str, Enum):
    """The output format of a transcript."""

    text = "text"
    json = "json"
    srt = "srt"
    vtt = "vtt"


class ScoreFormat(str, Enum):
    """The output format of a score."""

    text = "text"
    json = "json"


class NormalForm(str, Enum):
    """A normal form of texts, as named in `characters.FORMS`."""

    lower = "lower"
    nfc = "nfc"
    nfkc = "nfkc"


class ReportFormat(str, Enum):
    """The output format of a report."""

    table = "table"
    md = "md"
    json = "json"
    csv = "csv"
    latex = "latex"
    html = "html"


ConfigFile = Annotated[Path, typer.Argument(help="The yaml of the experiment.", metavar="CONFIG")]
Exp = Annotated[Path, typer.Argument(help="The folder of trained adapters.", metavar="EXP")]
DataDir = Annotated[Path, typer.Argument(help="A data directory.", metavar="DATA")]
OutDir = Annotated[Path, typer.Argument(help="The data directory to write.", metavar="OUT")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, such as train.lr=1e-4; repeatable."),
]
AdapterOverrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Set an option of the adapter, such as bottleneck=32; repeatable."
    ),
]
Adapter = Annotated[
    str, typer.Option(metavar="ADAPTER", help="An adapter type, or the name or path of a yaml with one.")
]
Base = Annotated[
    Path | None, typer.Option(metavar="DIR", help="The folder of the base model, if it has moved.")
]
BenchBase = Annotated[Path | None, typer.Option(metavar="DIR", help="The folder of the base model.")]
BenchModel = Annotated[
    str | None,
    typer.Option(
        metavar="YAML", help="Use random weights for this ESPnet training yaml, or its name in conf/base."
    ),
]
Utterances = Annotated[int, typer.Option(metavar="N", min=1, help="Utterances in the batch.")]
Seconds = Annotated[float, typer.Option("--sec", metavar="SEC", min=0.5, help="Length of each utterance.")]
Seed = Annotated[int | None, typer.Option(metavar="N", min=0, help="Replace the training seed.")]
Resume = Annotated[bool, typer.Option("--resume", help="Resume the run in the folder, if there is one.")]
Augment = Annotated[
    str | None,
    typer.Option(
        metavar="POLICY",
        help="Replace the augmentation by this policy (name or yaml), and name the experiment after it.",
    ),
]
AllowPipes = Annotated[
    bool, typer.Option("--allow-pipes", help="Run the shell commands in wav.scp; only for trusted data.")
]
BatchFrames = Annotated[
    int, typer.Option(metavar="N", min=1, help="Feature frames per batch, padding included.")
]
Route = Annotated[
    RouteMethod,
    typer.Option(
        help="Whose weights to use: the named speaker's (own), those of the shared adapter or, chosen from "
        "the audio, those with the highest likelihood or of the nearest voice."
    ),
]
RouteByOption = Annotated[
    RouteBy, typer.Option("--route-by", help="Choose per utterance, or by each speaker's first utterance.")
]
RouteNearest = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Compare likelihoods of the N nearest voices only.",
        show_default="all",
    ),
]
SubmodelMb = Annotated[
    float | None,
    typer.Option(
        metavar="MB", min=0, max=2**30, help="Memory for Submodels in MiB, per process; 1024 if omitted."
    ),
]


def _search(default: str) -> Any:
    """Return the option --search, whose help says what is the default."""
    text = "Search settings: a name in conf/decode or a yaml; auto chooses by the model."
    return typer.Option("--search", metavar="NAME|YAML|auto", help=text, show_default=default)


Search = Annotated[str | None, _search("the experiment's, else auto")]
BaseSearch = Annotated[str | None, _search("auto")]
SearchSet = Annotated[
    list[str] | None,
    typer.Option(
        "--search-set",
        metavar="KEY=VALUE",
        help="Change a search option, such as beam_size=20; repeatable.",
    ),
]
Lm = Annotated[
    Path | None,
    typer.Option(
        "--lm",
        metavar="DIR",
        help="An ESPnet language model for shallow fusion: its folder, .pth or archive.",
        show_default="the base model's own",
    ),
]
Nbest = Annotated[
    int | None,
    typer.Option(
        "--nbest", metavar="N", min=1, max=1000, help="Number of hypotheses per utterance, with scores."
    ),
]
UnknownSpeakers = Annotated[
    UnknownSpeaker,
    typer.Option(
        help="For speakers without an adapter, error uses the one named 'shared', and refuses them if there "
        "is none; base uses the base model."
    ),
]
Nj = Annotated[int, typer.Option(metavar="N", min=1, help="Parallel jobs.")]
Rate = Annotated[int, typer.Option(metavar="HZ", min=1000, help="Resample recordings to this rate.")]
Device = Annotated[
    str, typer.Option(metavar="DEVICE", help="cpu, cuda or cuda:N; auto uses CUDA if available.")
]


def request_search(search: str | None, changes: list[str] | None, lm: Path | None, nbest: int | None) -> Any:
    """Return the `SearchRequest` of --search, --search-set, --lm and --nbest."""
    from adaptkit.search_options import SearchRequest, read_search

    refuse_twice(changes, {"lm": ("--lm", lm), "nbest": ("--nbest", nbest)}, setter="--search-set")
    chosen = None if search is None else read_search(search)
    return SearchRequest(chosen, tuple(changes or ()), lm, nbest)


def request_route(route: RouteMethod, by: RouteBy, nearest: int | None, *, without_own: bool = False) -> Any:
    """Return the `RouteOptions` of --route and the options that change it."""
    from adaptkit.submodels.router import RouteOptions

    return RouteOptions(route.value, by.value, nearest, without_own)


def choose_device(device: str) -> str:
    """Resolve `auto` and, under torchrun, the GPU of this process; refuse a device that is not available."""
    import os

    import torch

    from adaptkit.tensors import require_device

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    require_device(device)
    return device


def suggest(*words: object) -> None:
    """Say which command of adaptkit comes next, on a terminal only: recipes know it."""
    import sys

    from adaptkit.errors import shell_word

    if sys.stderr.isatty():
        typer.echo(f"next: adaptkit {' '.join(map(shell_word, words))}", err=True)


def load_benched(base: Path | None, model: str | None, device: str) -> "BaseModel":
    """Load a base model, or build one with random weights."""
    from adaptkit.base import checkpoint, create
    from adaptkit.config import find_published

    if base:
        return checkpoint.load(base, device)
    return create.untrained(find_published("base", model)).to(device)


def new_group(text: str) -> typer.Typer:
    """Make a group of commands, `adaptkit <noun> <verb>`."""
    return typer.Typer(help=text, no_args_is_help=True)
