"""The places in a base model where an adapter can act."""

from collections.abc import Sequence
from dataclasses import dataclass

from adaptkit.errors import ConfigError, listed

SITE_KINDS = (
    "block",
    *("ffn_macaron", "ffn"),  # a feed-forward; x_in is normalised in a pre-norm block
    *("ffn_macaron_raw", "ffn_raw"),  # the same, with x_in before that norm
    *("ffn_macaron_in", "ffn_macaron_out", "ffn_in", "ffn_out"),  # the two linear maps of each
    *("query", "key", "value", "out"),
    "encoder_out",
    "bias",  # a map, norm or convolution within the encoder that adds a bias (dim_out,) to its output
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
    in_encoder: bool = True  # whether the encoder's output depends on it; only of a weight may it not
    axis: int = -1  # of the output of a map, norm or convolution, along which its dim_out channels lie

    @property
    def bias(self) -> str:
        """The name of the parameter that a site of kind `bias` adds."""
        return f"{self.name}.bias"

    @property
    def key(self) -> str:
        """The name in a form that torch allows in a ModuleDict."""
        return self.name.replace(".", "-")


def choose(
    sites: Sequence[Site], kinds: frozenset[str], blocks: Sequence[int] | None, *, option: str = "blocks"
) -> tuple[Site, ...]:
    """Return the sites of some kinds, limited to `blocks` if given; a block out of range is refused."""
    found = tuple(site for site in sites if site.kind in kinds)
    if blocks is None or not found:
        return found
    known = sorted({site.block for site in found})
    outside = sorted(set(blocks) - set(known))
    if outside:
        raise ConfigError(
            f"{option}: {listed(map(str, outside))} not among this base model's blocks, "
            f"{known[0]} to {known[-1]}"
        )
    return tuple(site for site in found if site.block in blocks)
