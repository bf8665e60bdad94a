"""Two parallel adapters in every block, one beside each half-step feed-forward.

Chen, Shafran, Zhang, Chiu, Soltau, Qin, Wu, Efficient adapters for giant speech models, 2023,
arXiv:2306.08131.

    Provenance: two adapters per Conformer block and the pruning of those in lower blocks are the paper's
    [abstract]; the equation, the raw input, relu and W_up initialised to zero follow the public code of the
    same group (google/praxis) [code]; unlike there, b_up is also initialised to zero, so that an untrained
    adapter changes nothing; `input: normed`, which allows folding into the feed-forward, is ours [ours].
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from adaptkit.adapters.api import Adapter, AdapterConfig, Blocks
from adaptkit.adapters.fold import Fold, Widened
from adaptkit.adapters.per_task import TaskLinear
from adaptkit.adapters.site import Site, choose
from adaptkit.config import Width
from adaptkit.errors import ConfigError

_WANTS = {"raw": frozenset({"ffn_macaron_raw", "ffn_raw"}), "normed": frozenset({"ffn_macaron", "ffn"})}
_ACTIVATIONS = {"relu": functional.relu, "swish": functional.silu, "gelu": functional.gelu}


class Config(AdapterConfig):
    """Size, input and placement of two parallel adapters."""

    kind: Literal["tpa"] = "tpa"
    bottleneck: Width = Field(64, description="bottleneck width R of each adapter")
    input: Literal["raw", "normed"] = Field(
        "raw", description="the feed-forward's input before or after its norm; only normed can be folded"
    )
    activation: Literal["relu", "swish", "gelu"] = Field(
        "relu",
        description="for folding, that of the base model's feed-forwards (activation_type in its yaml)",
    )
    blocks: Blocks = Field(None, description="blocks with adapters, counted from 0; null for all")


class TwoParallel(Adapter):
    """y = x + r (FFN(LN(x)) + A(z)), A(z) = W_up[k] act(W_down[k] z + b_down[k]) + b_up[k], k the task.

    z is x, or LN(x) with `input: normed`; r is the half-step factor 0.5, or 1 in a block with one
    feed-forward (no macaron). An adapter adds A(z) to the output of its feed-forward, so the base's own r
    scales both, and x stays on the skip path. W_up and b_up are initialised to zero, so an untrained adapter
    changes nothing. Parameters: K 2 L (2 D R + R + D), half of that without macaron; with `blocks`, L is the
    number of chosen blocks.
    """

    def __init__(self, config: Config, sites: Sequence[Site], num_tasks: int):
        super().__init__()
        self.wants, self.input, self.activation = _WANTS[config.input], config.input, config.activation
        self.sites = choose(sites, self.wants, config.blocks)
        self.down, self.up = nn.ModuleDict(), nn.ModuleDict()
        for site in self.sites:
            self.down[site.key] = TaskLinear(num_tasks, site.dim_in, config.bottleneck)
            self.up[site.key] = TaskLinear(num_tasks, config.bottleneck, site.dim_out, zero=True)

    def adapt(self, site: Site, x_in: Tensor, x_out: Tensor) -> Tensor:
        """Add the adapter of each row's task, applied to x_in, to a feed-forward's output x_out (B, U, D)."""
        if site.key not in self.down:  # a block without an adapter
            return x_out
        hidden = _ACTIVATIONS[self.activation](self.down[site.key](x_in, self.task_ids))  # (B, U, R)
        return x_out + self.up[site.key](hidden, self.task_ids)

    def fold(self, task: int) -> Sequence[Fold]:
        """Widen each feed-forward by R hidden units; refused if the adapter reads a different input."""
        if self.input == "raw":
            raise ConfigError(
                "it reads a feed-forward's input before the norm (input: raw), and the feed-forward itself "
                "reads it after; train it with 'input: normed' to fold it"
            )
        return [self._widened(site, task) for site in self.sites]

    def _widened(self, site: Site, task: int) -> Widened:
        down, up = self.down[site.key].of(task), self.up[site.key].of(task)
        return Widened(
            site=site,
            activation=self.activation,
            weight_in=down["weight"].T,
            bias_in=down["bias"],
            weight_out=up["weight"].T,
            bias_out=up["bias"],
        )


build = TwoParallel
