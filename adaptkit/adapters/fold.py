"""How a task's adapter goes into the base's own weights, where algebra allows it."""

from dataclasses import dataclass

from torch import Tensor

from adaptkit.adapters.site import Site


@dataclass(frozen=True)
class Added:
    """A difference (dim_out, dim_in) to the weight of the linear map at `site`, and one to its bias."""

    site: Site
    weight: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True)
class Widened:
    """Hidden units that a feed-forward gains: W_in (R, D), b_in (R,), W_out (D, R), and b_out (D,) added."""

    site: Site  # of kind ffn or ffn_macaron
    activation: str  # that the feed-forward must have, by the name of its class in lower case
    weight_in: Tensor
    bias_in: Tensor
    weight_out: Tensor
    bias_out: Tensor


Fold = Added | Widened
