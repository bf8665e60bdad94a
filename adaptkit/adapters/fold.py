"""Changes to the base model's weights that are equivalent to a task's adapter."""

from dataclasses import dataclass

from torch import Tensor

from adaptkit.adapters.site import Site


@dataclass(frozen=True)
class Added:
    """Terms to add to the weight (dim_out, dim_in) and the bias (dim_out,) of the module at `site`."""

    site: Site
    weight: Tensor | None = None
    bias: Tensor | None = None


@dataclass(frozen=True)
class Widened:
    """Hidden units to append to a feed-forward: W_in (R, D), b_in (R,), W_out (D, R); b_out (D,) to add."""

    site: Site  # of kind ffn or ffn_macaron
    activation: str  # class name, in lower case, of the activation that the feed-forward must have
    weight_in: Tensor
    bias_in: Tensor
    weight_out: Tensor
    bias_out: Tensor


Fold = Added | Widened
