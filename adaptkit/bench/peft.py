"""PEFT with the LoRA weights of an adapter stack, for comparison in training and in decoding."""

import copy
import importlib.util
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from adaptkit.adapters.api import AdapterStack
from adaptkit.base.checkpoint import BaseModel
from adaptkit.errors import ConfigError
from adaptkit.model.adapted import AdaptedModel


class PeftModel:
    """A copy of a base model with PEFT's LoRA in the encoder, and the same matrices as ours for each task.

    `adapted` runs it as a base of ours is run: frozen, in eval(), and without effects of padding.
    """

    def __init__(self, base: BaseModel, adapters: AdapterStack):
        if adapters.kind != "lora":
            raise ConfigError(
                f"adapter type {adapters.kind}: has no equivalent in PEFT; only lora can be timed"
            )
        refuse_missing("use --no-peft")
        from peft import LoraConfig, get_peft_model  # takes ten seconds

        self.tasks, self.names = list(adapters.tasks), None
        (config,), (lora,) = adapters.configs, adapters
        places = {site: site.name.removeprefix("encoder.") for site in lora.sites}
        options = LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=list(places.values()))
        model = copy.deepcopy(base.model)
        self.encoder = get_peft_model(model.encoder, options, adapter_name=self.tasks[0])
        for task in self.tasks[1:]:
            self.encoder.add_adapter(task, options)
        for site, place in places.items():
            theirs = model.encoder.get_submodule(place)
            _copy_matrices(theirs.lora_A, lora.down[site.key].weight, self.tasks)
            _copy_matrices(theirs.lora_B, lora.up[site.key].weight, self.tasks)
        model.encoder = self.encoder.eval()
        self.encoder.register_forward_pre_hook(self._name_rows, with_kwargs=True)
        self.adapted = AdaptedModel(replace(base, model=model), is_frozen=True).train(False)

    def mix(self, number: int) -> None:
        """Use a different task for each row of the next batch, which PEFT supports outside training only."""
        self.names = self.tasks

    def activate(self, number: int) -> None:
        """Use a single task for the next batches; it is the one to be trained."""
        self.names = None
        self.encoder.set_adapter(self.tasks[number])

    def matrices(self, number: int) -> list[nn.Parameter]:
        """Return the weights of a task."""
        part = f".{self.tasks[number]}."
        return [p for name, p in self.encoder.named_parameters() if "lora_" in name and part in name]

    def _name_rows(self, encoder: nn.Module, args: tuple, options: dict) -> tuple[tuple, dict]:
        return args, options if self.names is None else {**options, "adapter_names": self.names}


def refuse_missing(otherwise: str) -> None:
    """Refuse to compare with PEFT if it is not installed; `otherwise` is what else can be done."""
    if importlib.util.find_spec("peft") is None:
        raise ConfigError(f"PEFT is not installed; run 'pip install peft', or {otherwise}")


def _copy_matrices(theirs: nn.ModuleDict, table: Tensor, tasks: Sequence[str]) -> None:
    """Copy each task's matrix of our parameter (K, D_in, D_out) to PEFT's, transposed."""
    for task, matrix in zip(tasks, table, strict=True):
        theirs[task].weight.data = matrix.detach().T.contiguous()
