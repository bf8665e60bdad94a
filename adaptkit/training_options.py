"""The options of training: those of base models (`base.train`), and those of adapters (`train`)."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictBool, TypeAdapter, model_validator

from adaptkit.config import (
    Config,
    FilePath,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Seed,
    Share,
)

_RATE = TypeAdapter(PositiveFloat)
_MOST_RATES = 20


def _read_rates(content: Any) -> Any:
    """Validate a learning rate, or several, which are sorted."""
    if not isinstance(content, list | tuple):
        return _RATE.validate_python(content)
    rates = sorted({_RATE.validate_python(rate) for rate in content})
    if not 0 < len(rates) == len(content) <= _MOST_RATES:
        raise ValueError(f"expected 1 to {_MOST_RATES} different learning rates, found {len(content)}")
    return rates[0] if len(rates) == 1 else tuple(rates)


class Training(Config):
    """How a base model is trained, and what the training of adapters has in common with it."""

    max_epochs: PositiveInt = Field(
        20, description="passes over the training set; --resume may ask for more than the run had"
    )
    batch_frames: PositiveInt = Field(12000, description="feature frames of a batch, padding included")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="sgd is plain, without momentum")
    lr: PositiveFloat = Field(1e-3, description="peak learning rate")
    weight_decay: NonNegativeFloat = Field(0.0, description="decoupled weight decay")
    warmup_steps: NonNegativeInt | None = Field(
        None,
        description="steps over which the learning rate rises from 0; for adapters, counted per speaker; "
        "null: a tenth of all steps, at most 50",
    )
    schedule: Literal["constant", "linear", "cosine", "inverse_sqrt"] = Field(
        "linear", description="decay after warm-up; linear and cosine reach 0 after the last step"
    )
    clip_norm: PositiveFloat | None = Field(
        5.0, description="largest gradient norm, of each speaker's and of shared parameters; null for none"
    )
    accumulate: PositiveInt = Field(1, description="batches per optimizer step")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32",
        description="precision of the forward pass (autocast); weights stay float32; float16 scales the loss "
        "and skips the step of all speakers if any gradient overflows",
    )
    patience: PositiveInt | None = Field(
        None,
        description="early stopping per speaker, after this many validations without improvement in "
        "valid_metric or, at equal values, loss; the first validation is that of the start; null for none",
    )
    valid_metric: Literal["auto", "wer", "cer", "loss"] = Field(
        "auto",
        description="what early stopping and the best weights are chosen by; auto: CER where the validation "
        "texts are of a language written without spaces, else WER; loss: without decoding",
    )
    valid_every: PositiveInt = Field(1, description="epochs between validations")
    average: PositiveInt = Field(
        1,
        description="number of best checkpoints averaged at the end, never with the start; where none is "
        "better than the start of the adapters, its weights are kept",
    )
    save_every_steps: PositiveInt = Field(500, description="optimizer steps between saves within an epoch")
    num_workers: Annotated[NonNegativeInt, Field(le=256)] = Field(
        0, description="processes that load batches; 0: the main process"
    )
    seed: Seed = Field(0, description="random seed of initialisation, batch order and dropout")

    @property
    def decays_to_start(self) -> bool:
        """Whether weights decay towards those of the start rather than towards zero."""
        return False


class AdapterTraining(Training):
    """How adapters are trained."""

    lr: Annotated[PositiveFloat | tuple[PositiveFloat, ...], BeforeValidator(_read_rates)] = Field(
        1e-3,
        description="peak learning rate; of several, as in [1e-4, 1e-3], validation chooses one, see select",
    )
    select: Literal["auto", "speaker", "all"] = Field(
        "auto",
        description="whose validation chooses learning rate, number of epochs and best weights; speaker: "
        "each speaker's, for that speaker; all: that of all speakers, for all; auto: speaker, but all where "
        "speakers share trained weights",
    )
    min_gain: Share = Field(
        0.0,
        lt=1,
        description="fraction of the metric by which a validation must be better than that of the start, "
        "which is kept otherwise",
    )
    folds: Annotated[PositiveInt, Field(ge=2, le=100)] | None = Field(
        None,
        description="cross-validation in place of data.valid: each speaker's utterances are dealt into this "
        "many parts, each trial holds out one, and a final run trains on all utterances at the learning rate "
        "and for the number of epochs that were best in the trials; null for none",
    )
    task_utterances: PositiveInt = Field(
        8,
        description="utterances of one speaker in an optimizer step; a batch combines several speakers; "
        "no effect for adapters that speakers share",
    )
    temperature: PositiveFloat = Field(
        1.0,
        ge=0.1,
        description="T: a speaker's share of an epoch is proportional to its size to the power 1/T; 1: every "
        "utterance once; no effect for adapters that speakers share",
    )
    shared: StrictBool = Field(
        False, description="one adapter for all speakers of the training set, also for those not in it"
    )
    start: FilePath | None = Field(
        None,
        description="experiment whose shared adapter every speaker's weights start from: its folder or its "
        "adapter file; if it has the same speakers and options, each continues from their own weights",
    )
    freeze_shared: StrictBool = Field(
        False,
        description="keep the weights that speakers share as in 'start'; selection and early stopping are "
        "then per speaker, as speakers do not affect each other; no effect if nothing is shared",
    )
    decay_towards: Literal["auto", "zero", "start"] = Field(
        "auto",
        description="what weight_decay pulls weights towards: zero, or their values at the start; auto: the "
        "start if 'start' is set, else zero",
    )

    @property
    def decays_to_start(self) -> bool:
        """Whether weights decay towards those of the start rather than towards zero."""
        return self.decay_towards == "start" or (self.decay_towards == "auto" and self.start is not None)

    @model_validator(mode="after")
    def _frozen_weights_have_a_start(self) -> "AdapterTraining":
        if self.freeze_shared and self.start is None:
            raise ValueError("'freeze_shared' needs 'start', an experiment that has trained what is shared")
        return self

    @property
    def rates(self) -> tuple[float, ...]:
        """The learning rates to choose from; one if there is no choice."""
        return self.lr if isinstance(self.lr, tuple) else (self.lr,)

    @model_validator(mode="after")
    def _choose_epochs_once(self) -> "AdapterTraining":
        """Refuse what would choose the number of epochs beside the folds."""
        if self.folds is not None and (self.patience is not None or self.average > 1):
            raise ValueError(
                f"folds: {self.folds} chooses the number of epochs, so patience must be null and average 1, "
                f"not {'null' if self.patience is None else self.patience} and {self.average}"
            )
        return self
