"""Train a language model on the texts of data directories by ESPnet's own espnet2.bin.lm_train.

Its tokens are those of the base model with which it will be combined by shallow fusion. ESPnet writes
`config.yaml` and the average of the best epochs, `valid.loss.ave.pth`, to OUT. A finished model is kept, and
an interrupted training resumed; with other tokens, texts or settings than it began with, both are refused.
"""

import hashlib
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from adaptkit.base import checkpoint
from adaptkit.base.checkpoint import BaseModel
from adaptkit.cli.script import run_script
from adaptkit.errors import DataError, listed
from adaptkit.files import parse_json, read_regular, read_text, write_text
from adaptkit.kaldi import datadir

MADE_OF = "made_of.json"  # in OUT: digests of what the model is trained with


def main(
    base: Annotated[Path, typer.Argument(help="folder of the base model")],
    train: Annotated[Path, typer.Argument(help="data directory to train on")],
    valid: Annotated[Path, typer.Argument(help="data directory to select epochs on")],
    out: Annotated[Path, typer.Argument(help="folder to write the language model to")],
    config: Annotated[Path, typer.Option(help="ESPnet's yaml of the training")] = Path("conf/lm.yaml"),
) -> None:
    """Train a language model with the tokens of a base model.

    Example: python recipes/train_lm.py exp/hybrid data/train data/valid exp/lm
    """
    made_of = digest_sources(base, train, valid, config)
    refuse_another(out, made_of)
    if (out / "valid.loss.ave.pth").exists():
        logging.info("%s: already trained", out)
        return
    words = ["--config", str(config), *prepare(base, train, valid, out)]
    write_text(out / MADE_OF, json.dumps(made_of, indent=2) + "\n")
    if subprocess.run([sys.executable, "-m", "espnet2.bin.lm_train", *words], check=False).returncode != 0:
        raise DataError(f"{out}: espnet2.bin.lm_train failed; its messages are above")


def digest_sources(base: Path, train: Path, valid: Path, config: Path) -> dict[str, str]:
    """Return a digest of each thing that the language model is trained with."""
    model = checkpoint.load(base)
    files = (train / "text", valid / "text", config)
    contents = {str(path): read_text(path).encode() for path in files}
    contents |= {f"the {name} of {base}": read_regular(path) for name, path in find_pieces(model).items()}
    contents[f"the tokens of {base}"] = "\n".join(model.tokens.tokens).encode()
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def refuse_another(out: Path, made_of: dict[str, str]) -> None:
    """Refuse a folder that holds a training with anything else."""
    if not (out / "config.yaml").exists():  # which ESPnet writes first
        return
    if not (out / MADE_OF).exists():
        raise DataError(
            f"{out}: holds a language model without {MADE_OF}, which says what it was trained with; "
            "remove the folder to start over"
        )
    found = parse_json(read_text(out / MADE_OF))
    changed = [name for name in made_of if found.get(name) != made_of[name]]
    if changed:
        raise DataError(
            f"{out}: holds a language model that was not trained with the present {listed(changed, 5)}; "
            "put these back, or remove the folder to start over"
        )


def prepare(base: Path, train: Path, valid: Path, out: Path) -> list[str]:
    """Write the token list of a base model to `out`, and return the options of ESPnet's training."""
    options = {"output_dir": out, "resume": True, **describe_tokens(base, out)}
    for name, folder in (("train", train), ("valid", valid)):
        datadir.read(folder)  # which refuses a missing or empty text
        options[f"{name}_data_path_and_name_and_type"] = f"{folder / 'text'},text,text"
        options[f"{name}_shape_file"] = folder / "text"  # for unsorted batches, ESPnet reads only its ids
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def describe_tokens(base: Path, out: Path) -> dict[str, object]:
    """Write the token list of a base model to `out`, and return ESPnet's options that describe its tokens."""
    model = checkpoint.load(base)
    write_text(out / "tokens.txt", "".join(f"{token}\n" for token in model.tokens.tokens))
    return {"token_list": out / "tokens.txt", "token_type": model.config["token_type"], **find_pieces(model)}


def find_pieces(model: BaseModel) -> dict[str, Path]:
    """Return ESPnet's option for the BPE model of a base model, if it has one."""
    name = model.config["bpemodel"]
    return {"bpemodel": model.files.find(name)} if name else {}


if __name__ == "__main__":
    run_script(main)
