"""A corpus as policies are shown on."""

import pytest

from adaptkit.augment.corpus import Corpus, read_corpus


@pytest.fixture
def examples_corpus(corpus) -> Corpus:
    """The training set with features, 18 utterances of 20 bins."""
    return read_corpus(corpus / "dump" / "train")
