"""The options of training: those of base models, and those of adapters."""

import pytest

from adaptkit.training_options import AdapterTraining, Training


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, False),
        ({"start": "exp/shared"}, True),
        ({"start": "exp/shared", "decay_towards": "zero"}, False),
        ({"decay_towards": "start"}, True),
    ],
)
def test_weights_decay_towards_a_start_that_is_given_unless_otherwise_asked(options, expected):
    assert AdapterTraining.model_validate(options).decays_to_start is expected


def test_weights_of_a_base_model_decay_towards_zero():
    assert not Training().decays_to_start


def test_frozen_weights_need_a_start():
    with pytest.raises(ValueError, match="'freeze_shared' needs 'start'"):
        AdapterTraining(freeze_shared=True)
