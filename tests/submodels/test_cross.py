"""The matrix of every Submodel on every speaker, against decoding one Submodel at a time."""

from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from adaptkit.data.dataset import BASE_TASK, read_examples
from adaptkit.model.adapted import AdaptedModel
from adaptkit.model.recognise import recognise
from adaptkit.scoring import wer
from adaptkit.submodels import cross

SPEAKERS = ("spk1", "spk10", "spk2")


@pytest.fixture
def adapted(base, new_stack):
    """Trained adapters of three speakers on the tiny base."""
    return AdaptedModel(base, new_stack(base, is_trained=True)).eval()


@pytest.fixture
def valid(base, corpus):
    """The validation set: two utterances of each speaker."""
    return read_examples(corpus / "dump/valid", base)


def test_a_cell_has_the_errors_of_that_submodel_alone(adapted, valid):
    matrix = cross.measure(adapted, valid, 500)
    for column, task in enumerate((0, 1, 2, BASE_TASK)):
        with adapted.hooked():
            chosen = replace(valid, task_ids=dict.fromkeys(valid.data.tasks, task))
            texts = {h.utt_id: h.text for h in recognise(adapted, chosen, 500)}
        speakers = {u.utt_id: u.speaker for u in valid.data.utterances}
        refs = {u.utt_id: u.text for u in valid.data.utterances}
        report = wer.score(refs, texts, speakers=speakers)
        assert {s: c.errors for s, c in report.by_speaker.items()} == dict(
            zip(matrix.speakers, matrix.errors[:, column], strict=True)
        )


def test_words_of_an_utterance_too_short_for_the_encoder_are_deleted(adapted, valid):
    short = replace(valid, lengths=(1, *valid.lengths[1:]))
    utterance = valid.data.utterances[0]
    matrix = cross.measure(adapted, short, 500)
    rest = cross.measure(adapted, valid.without({utterance.utt_id}), 500)
    assert rest.speakers == matrix.speakers == SPEAKERS
    num_words = len(utterance.text.split())
    assert (matrix.errors - rest.errors).tolist() == [[num_words] * 4, [0] * 4, [0] * 4]
    assert (matrix.words - rest.words).tolist() == [num_words, 0, 0]


def test_a_set_of_which_all_is_too_short_has_all_words_deleted(adapted, valid):
    matrix = cross.measure(adapted, replace(valid, lengths=(1,) * len(valid)), 500)
    assert (matrix.rates == 100).all()


def test_a_speaker_without_words_has_no_rate_and_divides_nothing(tmp_path):
    matrix = cross.CrossMatrix(("a", "b"), ("a", "b"), np.array([[1, 5, 8], [1, 0, 2]]), np.array([10, 0]))
    assert matrix.rates[0].tolist() == [10.0, 50.0, 80.0]
    assert np.isnan(matrix.rates[1]).all()
    assert matrix.summary()["own"] == 10.0  # one error of a, none of b
    assert cross.CrossMatrix(("b",), ("b",), np.array([[1, 2]]), np.array([0])).summary() == {}
    cross.draw(matrix, tmp_path / "matrix.png", title="")


def test_the_summary_adds_up_by_hand():
    errors = np.array([[1, 5, 8], [6, 2, 4]])
    matrix = cross.CrossMatrix(("a", "b"), ("a", "b"), errors, np.array([10, 20]))
    assert matrix.summary() == {
        "base": 40.0,
        "own": 10.0,
        "others": 36.67,
        "best Submodel for all": 23.33,
        "worst Submodel for all": 23.33,
    }
    assert matrix.rates[0].tolist() == [10.0, 50.0, 80.0]


def test_speakers_whom_the_bank_does_not_know_have_no_own():
    matrix = cross.CrossMatrix(("c",), ("a", "b"), np.array([[1, 3, 2]]), np.array([10]))
    assert "own" not in matrix.summary()
    assert matrix.summary()["worst Submodel for all"] == 30.0


def test_the_table_and_the_picture_are_written(adapted, valid, tmp_path):
    matrix = cross.measure(adapted, valid, 500)
    cross._write_tsv(matrix, tmp_path / "matrix.tsv")
    cross.draw(matrix, tmp_path / "matrix.png", title="a $title")
    lines = (tmp_path / "matrix.tsv").read_text().splitlines()
    assert lines[0].split("\t") == ["speaker", "spk1", "spk10", "spk2", "(base)", "words"]
    assert len(lines) == 4
    assert matplotlib.image.imread(tmp_path / "matrix.png").ndim == 3


def test_axes_are_named_and_long_names_abridged():
    ax = Figure().subplots()
    cross._name(ax, "x", ["spk1", "speaker_with_a_long_name", "(base)"])
    cross._name(ax, "y", [f"spk{number}" for number in range(49)])
    assert ax.get_xlabel() == "Submodel\nright of the line: base model alone"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["spk1", "speaker_wi…_long_name", "(base)"]
    assert ax.get_ylabel() == "speaker (row of matrix.tsv, from 0)"
