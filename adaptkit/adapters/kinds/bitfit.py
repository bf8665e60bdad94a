"""BitFit: fine-tuning of the bias terms only, one set per task.

Ben Zaken et al., BitFit: Simple parameter-efficient fine-tuning for transformer-based masked language-models,
2022, arXiv:2106.10199.

    Provenance: only the bias terms of the model are trained [abstract]. Which these are in a recogniser is
    our interpretation: the biases of linear maps, norms, convolutions and recurrent layers, also in CTC and
    decoder unless `parts` excludes them, but not the vectors u and v of relative attention (pos_bias_u,
    pos_bias_v; Dai et al., Transformer-XL, 2019, arXiv:1901.02860), which are not added to a map's output
    [ours]. The biases of keys are included, although the softmax cancels them. The base stays in eval():
    dropout is off and the BatchNorm statistics are fixed [ours].

    Cost: few parameters, but a forward pass uses a single set of differences, as with `full`.
"""

import re
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, StrictBool

from adaptkit.adapters.api import AdapterConfig
from adaptkit.adapters.kinds.full import Full, Parts, choose_parts
from adaptkit.adapters.site import Site
from adaptkit.errors import ConfigError

_BIAS = re.compile(r"bias|bias_[ih]h(_l\d+)?(_reverse)?")  # the longer ones in recurrent nets


class Config(AdapterConfig):
    """Which biases are fine-tuned, and whether separately for each task."""

    kind: Literal["bitfit"] = "bitfit"
    parts: Parts = Field(None, description="top-level modules: encoder, ctc, decoder, ...; null for all")
    per_task: StrictBool = Field(True, description="one set per task; false: one set for all tasks")


def build(config: Config, sites: Sequence[Site], num_tasks: int) -> Full:
    """Build b + d[k] in place of each bias b, with k the task; b + d with `per_task: false`.

    Parameters: K P, or P with `per_task: false`, for P biases in the chosen parts.
    """
    weights = choose_parts(sites, config.parts)
    biases = [site for site in weights if _BIAS.fullmatch(site.name.rpartition(".")[2])]
    if weights and not biases:
        raise ConfigError("parts: no parameter there is a bias; choose other parts, or the adapter type full")
    return Full(biases, num_tasks, per_task=config.per_task)
