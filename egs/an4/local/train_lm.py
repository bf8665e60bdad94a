"""Train a language model on the texts of data directories by ESPnet's own espnet2.bin.lm_train.

Its tokens are those of the base model with which it will be combined by shallow fusion. ESPnet writes
`config.yaml` and the average of the best epochs, `valid.loss.ave.pth`, to OUT. A finished model is kept.
"""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from adaptkit.base import checkpoint
from adaptkit.cli.script import run_script
from adaptkit.errors import DataError
from adaptkit.files import write_text
from adaptkit.kaldi import datadir


def main(
    base: Annotated[Path, typer.Argument(help="folder of the base model")],
    train: Annotated[Path, typer.Argument(help="data directory to train on")],
    valid: Annotated[Path, typer.Argument(help="data directory to select epochs on")],
    out: Annotated[Path, typer.Argument(help="folder to write the language model to")],
    config: Annotated[Path, typer.Option(help="ESPnet's yaml of the training")] = Path("conf/lm.yaml"),
) -> None:
    """Train a language model with the tokens of a base model.

    Example: python local/train_lm.py exp/hybrid data/train data/valid exp/lm
    """
    if (out / "valid.loss.ave.pth").exists():
        logging.info("%s: already trained", out)
        return
    words = ["--config", str(config), *prepare(base, train, valid, out)]
    if subprocess.run([sys.executable, "-m", "espnet2.bin.lm_train", *words], check=False).returncode != 0:
        raise DataError(f"{out}: espnet2.bin.lm_train failed; its messages are above")


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
    pieces = {"bpemodel": model.files.find(model.config["bpemodel"])} if model.config["bpemodel"] else {}
    return {"token_list": out / "tokens.txt", "token_type": model.config["token_type"], **pieces}


if __name__ == "__main__":
    run_script(main)
