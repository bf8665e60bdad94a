"""Refuse data directories whose features do not suit a base model."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from adaptkit.base.checkpoint import BaseModel
from adaptkit.errors import DataError, listed, shell_word
from adaptkit.features.archive import load_feats, refuse_incomplete
from adaptkit.features.fbank import FbankOptions, read_options
from adaptkit.kaldi.datadir import DataDir


def refuse_misfit(data: DataDir, base: BaseModel) -> None:
    """Refuse a data directory without features, or with features other than the base model's."""
    if base.features is None:
        return
    remedy = f"'{_command(data.path, base.features)}' makes them"
    if data.feats is None:
        raise DataError(f"{data.path}: no feats.scp, which the base model {base.path} reads; {remedy}")
    rows = data.feats.rows(data.utterances.ids)
    missing = data.utterances.ids.take(np.flatnonzero(rows < 0))
    if len(missing):
        raise DataError(f"{data.path}/feats.scp: missing {listed(missing)}; {remedy}")
    refuse_incomplete(data.feats.column.take(rows))
    made = data.path / "feats.json"  # absent if the features were made by Kaldi itself
    options = read_options(made).to_dict() if made.exists() else {}
    wrong = [name for name, value in options.items() if base.features[name] != value]
    if wrong:
        described = ", ".join(f"{name} {options[name]} (the model: {base.features[name]})" for name in wrong)
        raise DataError(f"{made}: not the features {base.path} was trained on: {described}; {remedy}")
    num_bins = load_feats(data.feats[data.utterances[0].utt_id]).shape[1]
    if num_bins != base.features["num_bins"]:
        raise DataError(
            f"{data.path}/feats.scp: {num_bins} bins, {base.path} reads {base.features['num_bins']}; {remedy}"
        )


def _command(data: Path, wanted: Mapping[str, float]) -> str:
    """Return the command that extracts the wanted features into another folder."""
    out, usual = Path("dump", data.name), FbankOptions().to_dict()
    if out.resolve() == data.resolve():
        out = out.with_name(f"{data.name}_{wanted['num_bins']}")
    flags = {"rate_hz": "--rate", "num_bins": "--num-bins"}
    changes = (f" {flag} {wanted[name]}" for name, flag in flags.items() if wanted[name] != usual[name])
    return f"adaptkit feats {shell_word(data)} {shell_word(out)}{''.join(changes)}"
