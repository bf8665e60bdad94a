"""The benchmark of the server: every answer is compared with what the speaker's own Submodel finds."""

import http.client
from dataclasses import replace

import pytest

from adaptkit.adapters import api
from adaptkit.bench import serving as bench
from adaptkit.bench.submodels import Load, random_submodels
from adaptkit.errors import AdaptkitError, DataError
from adaptkit.model.recognise import Hypothesis

RESIDUAL = api.read_config({"kind": "residual", "bottleneck": 4})
EXPECTED = {"a": Hypothesis("a", "AB", -10.0), "b": Hypothesis("b", "AB", -20.0)}


def answer(speaker, text, score, *, status=http.client.OK, seconds=0.5):
    return bench.Answer(speaker, seconds, status, Hypothesis(speaker, text, score))


def wrong(*answers):
    alone = bench.Round(1.0, answers)
    return bench.summarise(2, [alone], [alone], EXPECTED).num_wrong


@pytest.mark.slow
def test_one_client_and_many_get_right_answers(base, base_dir):
    load = Load(num_speakers=3, seconds=1.0)
    on_disk = replace(base, path=base_dir)
    alone, together = bench.time_serving(on_disk, RESIDUAL, load, num_clients=4, num_rounds=1)

    assert (alone.num_clients, alone.num_requests) == (1, 4)
    assert (together.num_clients, together.num_requests) == (4, 4 * bench.REQUESTS)
    assert alone.num_errors == alone.num_wrong == together.num_errors == together.num_wrong == 0
    assert alone.ratio == 1
    assert min(alone.per_sec, together.per_sec, alone.p99_ms, together.p99_ms) > 0


@pytest.mark.slow
@pytest.mark.usefixtures("_starts_forks")
def test_a_server_that_cannot_start_is_told(base, tmp_path):
    (tmp_path / "model.pth").write_bytes(b"")
    load = Load(num_speakers=2, seconds=1.0)

    with pytest.raises(DataError, match="has ended with exit code 1: .*no config.yaml beside it"):
        bench.time_serving(replace(base, path=tmp_path), RESIDUAL, load, num_clients=2, num_rounds=1)


def test_submodels_that_find_the_same_are_refused(base, new_stack, tmp_path):
    (tmp_path / "speech.wav").write_bytes(bench.make_audio(base, 1.0))

    assert len(bench.expect(base, random_submodels(base, RESIDUAL, ["a", "b"]), tmp_path / "speech.wav")) == 2
    with pytest.raises(AdaptkitError, match="of spk1 and spk10 give the same result"):
        bench.expect(base, new_stack(base).eval(), tmp_path / "speech.wav")


def test_an_answer_of_another_speaker_is_wrong():
    assert wrong(answer("a", "AB", -10.0), answer("b", "AB", -20.001)) == 0  # rounded otherwise
    assert wrong(answer("a", "AB", -20.0), answer("b", "C", -20.0)) == 2


def test_requests_without_an_answer_are_errors():
    alone = bench.Round(1.0, [answer("a", "AB", -10.0)])
    broken = [answer("a", "", 0.0, status=0), answer("b", "", 0.0, status=503), *alone.answers]
    found = bench.summarise(2, [bench.Round(0.5, broken)], [alone], EXPECTED)

    assert (found.num_requests, found.num_errors, found.num_wrong) == (3, 2, 0)
    assert (found.per_sec, found.ratio, found.median_ms) == (6, 6, 500)
