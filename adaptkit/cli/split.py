"""`adaptkit data split`: divide a data directory."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adaptkit.cli.options import Command, DataDir

if TYPE_CHECKING:
    from adaptkit.kaldi import datadir
    from adaptkit.kaldi.split import Split

log = logging.getLogger(__name__)
_LEFT_OUT = "left_out"  # name of the list


def register(group: typer.Typer) -> None:
    """Add the command to the group."""
    group.command(cls=Command)(split)


def split(
    source: DataDir,
    out_dirs: Annotated[
        list[Path], typer.Argument(metavar="OUT...", help="Two or more data directories to write.")
    ],
    speakers: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N|P%",
            help="Divide whole speakers: number or share for each OUT; without one, the last gets the rest.",
        ),
    ] = None,
    per_spk: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N|P%",
            help="Divide each speaker's utterances in the same way; every speaker is in every OUT.",
        ),
    ] = None,
    disjoint_texts: Annotated[
        bool,
        typer.Option(
            "--disjoint-texts",
            help="Keep every sentence in one OUT; utterances of it that do not fit there are left out.",
        ),
    ] = False,
    stratify: Annotated[
        bool,
        typer.Option("--stratify", help="Keep the shares of groups (utt2group, spk2group) in every OUT."),
    ] = False,
    lists: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Also write <name of OUT>.txt, a list of utterances for 'data subset --utt-list', and "
            "left_out.txt.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the random choice.")] = 0,
) -> None:
    """Divide a data directory by speaker or within each speaker, at random.

    Example: adaptkit data split data/train data/adapt data/held_out --per-spk 2 --disjoint-texts
    """
    from adaptkit.kaldi import datadir
    from adaptkit.kaldi import split as library
    from adaptkit.kaldi import subset as parts

    if (speakers is None) == (per_spk is None):
        raise typer.BadParameter("use one of --speakers and --per-spk, several times")
    _refuse_same(source, out_dirs, lists)
    sizes = tuple(map(library.read_size, speakers or per_spk or ()))
    options = library.SplitOptions(len(out_dirs), sizes, disjoint_texts, stratify, seed)
    data = datadir.read(source, needs_text=disjoint_texts)
    found = (library.split_within if per_spk else library.split_speakers)(data, options)
    for out_dir, utt_ids in zip(out_dirs, found.parts, strict=True):
        parts.save(parts.subset(data, utt_ids, path=out_dir), [data])
    if lists:
        library.write_lists(found, [out_dir.name for out_dir in out_dirs], lists, left_out=_LEFT_OUT)
    _report(found, out_dirs, data)


def _refuse_same(source: Path, out_dirs: list[Path], lists: Path | None) -> None:
    folders = [str(folder.resolve()) for folder in (source, *out_dirs)]
    names = [*(out_dir.name for out_dir in out_dirs), _LEFT_OUT] if lists else []
    if len({*folders}) < len(folders):
        what = "folders for OUT, none of them DATA"
    elif len({*names}) < len(names):
        what = f"names, other than {_LEFT_OUT}, for OUT"
    else:
        return
    raise typer.BadParameter(f"{', '.join(map(str, out_dirs))}: use different {what}")


def _report(found: "Split", out_dirs: list[Path], data: "datadir.DataDir") -> None:
    """Print the sizes of the parts, and log what is left out or missing of them."""
    from adaptkit.errors import counted, listed

    speaker_of = {u.utt_id: u.speaker for u in data.utterances}
    for out_dir, utt_ids in zip(out_dirs, found.parts, strict=True):
        speakers = counted(len({speaker_of[utt_id] for utt_id in utt_ids}), "speaker")
        typer.echo(f"{out_dir}: {counted(len(utt_ids), 'utterance')} of {speakers}")
    if found.short:
        log.warning("%s: fewer utterances than asked for: %s", data.path, listed(found.short))
    if found.left_out:
        figures = (data.path, len(found.left_out), len(speaker_of), listed(found.left_out))
        log.warning("%s: in none of the parts: %d of %d utterances: %s", *figures)
