"""The benchmark of searches: both sides find the same words, and what is timed is what is printed."""

import pytest
import torch

from adaptkit.base import checkpoint, classes
from adaptkit.base.search.choose import new_searcher
from adaptkit.bench import decoding as bench
from adaptkit.search_options import Beam, Greedy, SearchRequest

pytestmark = pytest.mark.slow
HYBRID = {
    "decoder": "transformer",
    "decoder_conf": {"attention_heads": 2, "linear_units": 24, "num_blocks": 1},
    "model_conf": {"ctc_weight": 0.3},
}


@pytest.fixture(scope="module")
def hybrid(new_base):
    return new_base(**HYBRID)


@pytest.mark.parametrize("options", [Greedy(), Beam(beam_size=3), Beam(beam_size=2, ctc_weight=1.0)])
def test_espnet_and_both_of_our_ways_find_the_same_words(hybrid, options):
    searcher = new_searcher(hybrid, SearchRequest(options))
    speech = bench.draw_speech(hybrid, 3, 0.6, 1.2)

    costs = bench.time_searches(hybrid, searcher, speech, num_rounds=1, batch_frames=4000, has_espnet=True)

    assert [cost.name for cost in costs] == ["Speech2Text", "one by one", "in batches"]
    assert min(cost.seconds for cost in costs) > 0
    if not isinstance(options, Greedy):  # Speech2Text sums over alignments instead
        assert [cost.num_equal for cost in costs] == [3, 3, 3]
        assert max(cost.largest_difference for cost in costs) < 1e-4


def test_noise_is_of_evenly_spaced_lengths(base):
    speech = bench.draw_speech(base, 3, 1.0, 2.0)

    assert [len(one) for one in speech.inputs] == list(speech.lengths) == [100, 150, 200]
    assert speech.seconds == 4.5


def test_classes_imported_for_reference_leave_typeguard_as_it_was():
    import typeguard

    checked = typeguard.typechecked
    with torch.no_grad():
        classes.import_unchecked("espnet2.bin.asr_inference.Speech2Text")
    assert typeguard.typechecked is checked


def test_all_columns_are_printed(adaptkit, hybrid, tmp_path):
    checkpoint.save(tmp_path, hybrid.config, hybrid.model.state_dict())
    words = ["--search", "beam", "--search-set", "beam_size=2", "--utterances", 2, "--max-sec", 2.5]
    done = adaptkit("bench", "decode", "--base", tmp_path, *words, "--rounds", 1, "--no-espnet")

    assert done.exit_code == 0, done.stderr
    first, heads, *rows = done.stdout.splitlines()
    assert first.startswith("2 utterances, 4.5 s; first hypothesis after ")
    assert heads.endswith("same words score differs")
    assert [row[:14].strip() for row in rows] == ["one by one", "in batches"]
    assert all("2 of 2" in row for row in rows)
