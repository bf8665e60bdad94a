"""The places in a base model where an adapter can act."""

from dataclasses import dataclass

SITE_KINDS = (
    "block",
    *("ffn_macaron", "ffn"),  # a feed-forward; x_in is normalised in a pre-norm block
    *("ffn_macaron_raw", "ffn_raw"),  # the same, with x_in before that norm
    *("ffn_macaron_in", "ffn_macaron_out", "ffn_in", "ffn_out"),  # the two linear maps of each
    *("query", "key", "value", "out"),
    "encoder_out",
    "weight",  # a parameter of the base model, changed by adding a difference of its `shape`
)


@dataclass(frozen=True)
class Site:
    """A place in the base model where an adapter can act; `block` counts from 0, -1 outside the blocks."""

    name: str  # path of the module or parameter, for example encoder.encoders.0.feed_forward
    kind: str  # one of SITE_KINDS
    block: int
    dim_in: int
    dim_out: int
    input_of: str = ""  # path of the module whose input is x_in, if it is not the site itself
    shape: tuple[int, ...] = ()  # of a weight

    @property
    def key(self) -> str:
        """The name in a form that torch allows in a ModuleDict."""
        return self.name.replace(".", "-")
