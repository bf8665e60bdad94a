"""Dealing utterances into folds: every one is held out once, and its copies with it."""

import random
import re
from collections import Counter
from dataclasses import replace

import pytest

from adaptkit.augment import schedule
from adaptkit.augment.policy import Policy
from adaptkit.augment.specaugment import SpecAugment
from adaptkit.training.folds import deal
from tests.fixtures.models import SPEAKERS


@pytest.fixture
def of_sizes(examples):
    """Return the examples with so many utterances of each speaker, in any order."""

    def make(*sizes, rename=lambda utt_id: [utt_id]):
        left, utterances = dict(zip(SPEAKERS, sizes, strict=True)), []
        for utterance in examples.data.utterances:
            left[utterance.task] -= 1
            if left[utterance.task] >= 0:
                utterances += [replace(utterance, utt_id=name) for name in rename(utterance.utt_id)]
        random.Random(1).shuffle(utterances)
        data = replace(examples.data, utterances=tuple(utterances))
        return replace(examples, data=data, lengths=(100,) * len(utterances))

    return make


def ids(examples, *tasks):
    return {u.utt_id for u in examples.data.utterances if u.task in (tasks or SPEAKERS)}


def test_every_utterance_is_held_out_once_and_trained_on_otherwise(of_sizes):
    examples = of_sizes(6, 5, 4)
    folds = deal(examples, 3, seed=0)
    splits = [tuple(map(ids, fold.split(examples))) for fold in folds]
    assert sorted(utt_id for _, valid in splits for utt_id in valid) == sorted(ids(examples))
    assert all(train | valid == ids(examples) and not train & valid for train, valid in splits)
    sizes = [sorted(len(ids(fold.split(examples)[1], task)) for fold in folds) for task in SPEAKERS]
    assert sizes == [[2, 2, 2], [1, 2, 2], [1, 1, 2]]


def test_a_speaker_has_as_many_folds_as_utterances_and_one_of_a_single_utterance_has_none(of_sizes, caplog):
    examples = of_sizes(6, 2, 1)
    folds = deal(examples, 4, seed=0)
    assert [len(ids(fold.split(examples)[1], "spk10")) for fold in folds] == [1, 1, 0, 0]
    assert not any(ids(examples, "spk2") & fold.held_out for fold in folds)
    assert "train: 1 of 3 speakers have a single utterance, which is never held out: spk2" in caplog.text


def test_there_are_no_more_folds_than_utterances_of_a_speaker(of_sizes):
    assert [len(deal(of_sizes(*sizes), 100, seed=0)) for sizes in ((3, 2, 1), (1, 1, 1))] == [3, 0]


def test_the_folds_of_a_speaker_depend_on_seed_and_speaker_alone(of_sizes):
    whole, others = of_sizes(6, 6, 6), of_sizes(3, 6, 1)
    own = [[f.held_out & ids(e, "spk10") for f in deal(e, 3, seed=5)] for e in (whole, others)]
    assert own[0] == own[1] != [f.held_out & ids(whole, "spk10") for f in deal(whole, 3, seed=6)]


def test_copies_are_held_out_with_their_utterance_and_not_validated_on(of_sizes):
    examples = of_sizes(3, 2, 1, rename=lambda name: [name, f"sp0.9-{name}", f"{name}-noisy1"])
    for fold in deal(examples, 3, seed=0):
        assert len(fold.held_out) == 3 * len(fold.validated) > 0
        assert all(f"sp0.9-{name}" in fold.held_out for name in fold.validated)
        assert not any("sp0.9" in name or "noisy" in name for name in fold.validated)


@pytest.mark.parametrize("copies", [("sp0.9-{}", "sp1.1-{}"), ("{}-noisy1", "{}-noisy2")])
def test_copies_without_their_utterance_are_held_out_together(of_sizes, copies):
    examples = of_sizes(3, 2, 1, rename=lambda name: [copy.format(name) for copy in copies])
    for fold, num in zip(deal(examples, 3, seed=0), (2, 2, 1), strict=True):
        assert fold.validated == fold.held_out
        originals = [re.sub(r"^sp...-|-noisy.$", "", name) for name in fold.held_out]
        assert sorted(Counter(originals).values()) == [2] * num


def test_what_only_looks_like_a_copy_is_an_utterance_of_its_own(of_sizes):
    examples = of_sizes(3, 2, 1, rename=lambda name: [f"{name}-noisy1"])
    assert [len(fold.validated) for fold in deal(examples, 3, seed=0)] == [2, 2, 1]


def test_held_out_utterances_are_not_augmented(of_sizes):
    masking = schedule.start(Policy(spec=SpecAugment(freq_masks=1, freq_width=4)), 0, 8000)
    examples = replace(of_sizes(6, 6, 6), augmentation=masking)
    train, valid = deal(examples, 2, seed=0)[0].split(examples)
    assert (train.augmentation, valid.augmentation) == (masking, None)
