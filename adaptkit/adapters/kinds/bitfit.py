"""BitFit, which fine-tunes nothing but biases, one set per task.

Ben Zaken et al., BitFit: Simple parameter-efficient fine-tuning for transformer-based masked language-models,
2022, arXiv:2106.10199.

Provenance: the bias terms of the model are trained, and nothing else [abstract]. Which those are in a
recogniser is our reading: the biases of linear maps, norms, convolutions and recurrent nets, of CTC and
decoder too unless `parts` says otherwise, but not the vectors u and v of relative attention (pos_bias_u,
pos_bias_v; Dai et al., Transformer-XL, 2019, arXiv:1901.02860), which no map adds to what leaves it [ours].
The biases of keys are among them, though the softmax cancels them. The base stays in eval(): dropout is off
and the statistics of BatchNorm do not move [ours].

Cost: few numbers, but a pass serves one difference alone, as with `full`.
"""

import re
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from adaptkit.adapters.api import AdapterConfig
from adaptkit.adapters.kinds.full import Full, Parts, choose_parts
from adaptkit.adapters.site import Site
from adaptkit.errors import ConfigError

_BIAS = re.compile(r"bias|bias_[ih]h(_l\d+)?(_reverse)?")  # the longer ones in recurrent nets


class Config(AdapterConfig):
    """Whose biases are fine-tuned, and for whom."""

    kind: Literal["bitfit"] = "bitfit"
    parts: Parts = Field(None, description="encoder, ctc, decoder or what else the base has; null for all")
    per_task: bool = Field(True, description="a set for every task; false: one for all tasks")


def build(config: Config, sites: Sequence[Site], num_tasks: int) -> Full:
    """Build b + d[k] in place of each bias b, with k the task; b + d for all tasks without `per_task`.

    Parameters: K P, without `per_task` P, where P counts the biases of the chosen parts.
    """
    weights = choose_parts(sites, config.parts)
    biases = [site for site in weights if _BIAS.fullmatch(site.name.rpartition(".")[2])]
    if weights and not biases:
        raise ConfigError("parts: no parameter there is a bias; choose others, or the kind full")
    return Full(biases, num_tasks, per_task=config.per_task)
