"""Refuse data directories whose features a base model does not read."""

import numpy as np

from adaptkit.base.checkpoint import BaseModel
from adaptkit.errors import DataError, listed
from adaptkit.features.archive import load_feats, refuse_incomplete
from adaptkit.features.fbank import read_options
from adaptkit.kaldi.datadir import DataDir


def refuse_misfit(data: DataDir, base: BaseModel) -> None:
    """Refuse a data directory without features, or with features other than the base model's."""
    if base.features is None:
        return
    remedy = f"'adaptkit feats {data.path} dump/{data.path.name}' makes them"
    if data.feats is None:
        raise DataError(f"{data.path}: no feats.scp, which the base model {base.path} reads; {remedy}")
    rows = data.feats.rows(data.utterances.ids)
    missing = data.utterances.ids.take(np.flatnonzero(rows < 0))
    if len(missing):
        raise DataError(f"{data.path}/feats.scp: missing {listed(missing)}; {remedy}")
    refuse_incomplete(data.feats.column.take(rows))
    made = data.path / "feats.json"  # absent if Kaldi itself made the features
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
