"""Decoding a set whose speakers nobody names."""

import shutil
from dataclasses import replace

import pytest

from adaptkit.adapters.per_task import SHARED
from adaptkit.decoding.run import DecodeOptions, decode_folder
from adaptkit.errors import CheckpointError, ConfigError
from adaptkit.files import write_text
from adaptkit.kaldi.tables import read_table, write_table
from adaptkit.records import DecodeRecord, RunRecord
from adaptkit.submodels import export as folders
from adaptkit.submodels.router import RouteOptions

COLUMNS = ["utt_id", "speaker", "chosen", "score", "runner_up", "runner_up_score"]


@pytest.fixture
def exp(adaptkit, new_exp, corpus):
    """An experiment with the embeddings of its speakers."""
    folder = new_exp(bottleneck=4)
    assert adaptkit("submodels", "embed", folder, corpus / "dump/train", "--device", "cpu").exit_code == 0
    return folder


@pytest.fixture
def data(corpus, tmp_path):
    """The validation set with features, in a folder that a test may spoil."""
    return shutil.copytree(corpus / "dump/valid", tmp_path / "valid")


@pytest.fixture
def run(exp, data):
    """Decode with a route; keywords replace options, `more` those of the route."""

    def decode(method="own", *, more=None, **changes):
        options = DecodeOptions(exp, data, batch_frames=500, route=RouteOptions(method, **(more or {})))
        return decode_folder(replace(options, **changes), device="cpu")

    return decode


def read_routes(out):
    """Return the routes by utterance, each by column."""
    header, *lines = [line.split("\t") for line in (out / "routes.tsv").read_text().splitlines()]
    assert header == COLUMNS
    return {line[0]: dict(zip(header, line, strict=True)) for line in lines}


def chosen(out):
    return {utt_id: one["chosen"] for utt_id, one in read_routes(out).items()}


@pytest.mark.parametrize(
    ("method", "more"), [("likelihood", {}), ("embedding", {}), ("likelihood", {"without_own": True})]
)
def test_a_routed_row_has_the_same_bits_as_one_decoded_by_name(run, data, exp, method, more):
    out = run(method, more=more)
    write_table(data / "utt2task", chosen(out))
    named = run(unknown_speaker="base", out=exp / "decode_named")  # (base) is nobody's name
    for name in ("text", "utt2score"):
        assert (out / name).read_bytes() == (named / name).read_bytes()
    assert len(read_routes(out)) == 6


def test_submodels_are_routed_as_the_experiment_they_are_from(run, base, base_dir, exp, tmp_path):
    folder = tmp_path / "submodels"
    folders.export(exp / "adapter.safetensors", base, folder)
    shutil.copy(exp / "speakers.safetensors", folder / "+speakers.safetensors")
    for more in ({}, {"nearest": 2}):
        expected = run("likelihood", more=more)
        out = run("likelihood", more=more, exp=base_dir, submodels=folder)
        assert out == folder / expected.name
        for name in ("text", "utt2score", "routes.tsv"):
            assert (out / name).read_bytes() == (expected / name).read_bytes()


def test_the_folder_and_the_record_say_how_utterances_were_routed(run, exp):
    out = run("likelihood", more={"nearest": 2, "by": "speaker", "without_own": True})
    assert out == exp / "decode_valid_likelihood_nearest2_by_speaker_without_own"
    record = DecodeRecord.read(out / "run.json")
    expected = {"method": "likelihood", "by": "speaker", "nearest": 2, "without_own": True}
    assert (record.route, record.route_accuracy, record.set_name) == (expected, None, "valid")
    assert DecodeRecord.read(run() / "run.json").route is None


def test_the_share_of_utterances_with_their_own_weights_is_measured(run):
    out = run("embedding")
    routes = read_routes(out)
    right = [one["chosen"] == one["speaker"] for one in routes.values()]
    assert DecodeRecord.read(out / "run.json").route_accuracy == pytest.approx(100 * sum(right) / len(right))


def test_own_weights_are_never_chosen_where_they_are_left_out(run):
    routes = read_routes(run("embedding", more={"without_own": True}))
    assert [one for one in routes.values() if one["chosen"] == one["speaker"]] == []


def test_a_speaker_keeps_what_the_first_utterance_was_given(run):
    alone = chosen(run("likelihood"))
    together = chosen(run("likelihood", more={"by": "speaker"}))
    assert together == {utt_id: alone[f"{utt_id.rpartition('-')[0]}-00"] for utt_id in alone}


def test_a_choice_does_not_depend_on_the_other_utterances(run, data, adaptkit, tmp_path):
    both = read_routes(run("likelihood"))
    (name, *_) = both
    write_text(tmp_path / "one", name + "\n")
    adaptkit("data", "subset", data, tmp_path / "alone", "--utt-list", tmp_path / "one")
    assert read_routes(run("likelihood", data=tmp_path / "alone")) == {name: both[name]}


def test_strangers_are_decoded_too(run, data):
    write_table(data / "utt2spk", dict.fromkeys(read_table(data / "utt2spk"), "anna"))
    (data / "spk2utt").unlink()
    out = run("likelihood")
    assert len(read_table(out / "text")) == 6
    assert DecodeRecord.read(out / "run.json").route_accuracy is None


def test_an_utterance_without_frames_is_silence_and_not_routed(run, data, forget_records):
    forget_records(data)
    lengths = read_table(data / "utt2num_frames")
    write_table(data / "utt2num_frames", {**lengths, "spk1-00": "3"})
    out = run("likelihood", more={"by": "speaker"})
    assert read_table(out / "text")["spk1-00"] == ""
    assert "spk1-00" not in read_routes(out)
    assert len(read_routes(out)) == 5


def test_routes_of_an_earlier_decoding_are_removed(run, exp):
    run("likelihood", out=exp / "decode_valid")
    assert not (run() / "routes.tsv").exists()


# the shared adapter


@pytest.fixture
def start(base, new_exp, exp):
    """Let the experiment have started from a shared adapter; give an experiment of the latter alone."""
    shared = new_exp("exp_shared", tasks=(SHARED,), bottleneck=4)
    shutil.copy(shared / "adapter.safetensors", exp / "start.safetensors")
    return shared


def test_the_adapter_that_speakers_started_from_is_chosen_as_it_is_alone(run, exp, start):
    out, alone = run("shared"), run(exp=start)
    for name in ("text", "utt2score"):
        assert (out / name).read_bytes() == (alone / name).read_bytes()
    assert set(chosen(out).values()) == {SHARED}
    assert DecodeRecord.read(out / "run.json").route_accuracy is None


def test_it_is_among_what_likelihoods_are_compared_of(run, start):
    def named(out):
        return {name for one in read_routes(out).values() for name in (one["chosen"], one["runner_up"])}

    without_speakers = run("likelihood", more={"nearest": 1, "without_own": True})
    assert SHARED in named(without_speakers)


def test_with_a_space_it_has_an_embedding_of_zero(run, base, new_exp, start, data):
    exp = new_exp("space", bottleneck=4, bank="space", space_dim=2)
    shutil.copy(start / "adapter.safetensors", exp / "start.safetensors")
    assert set(chosen(run("shared", exp=exp)).values()) == {SHARED}


# refusals


def test_what_cannot_be_chosen_from_is_refused(run, base_dir, new_exp, exp):
    cases = [
        ({"exp": base_dir}, "likelihood", "decoded without adapters, so nothing can be chosen"),
        ({"base_only": True}, "likelihood", "decoded without adapters, so nothing can be chosen"),
        (
            {"unknown_speaker": "base"},
            "embedding",
            "--unknown-speaker base: no effect with --route embedding",
        ),
        ({}, "shared", "has no shared adapter .*train --shared' makes, or use --route likelihood"),
        (
            {"exp": new_exp("all", kind="full", per_task=False)},
            "likelihood",
            "are the same for all speakers; omit --route",
        ),
    ]
    for changes, method, message in cases:
        with pytest.raises(ConfigError, match=message):
            run(method, **changes)
    assert not list(exp.glob("decode_*/text"))


def test_embeddings_that_lack_a_speaker_are_refused(run, exp, new_exp, data):
    more = new_exp("more", tasks=("anna", "spk1", "spk10", "spk2"), bottleneck=4)
    shutil.copy(exp / "speakers.safetensors", more / "speakers.safetensors")
    with pytest.raises(CheckpointError, match="has no embedding of anna"):
        run("embedding", exp=more)


@pytest.mark.parametrize(("last", "most"), [("b", 17), ("shared", 16)])  # shared is compared in any case
def test_more_submodels_than_fit_in_memory_are_not_compared(
    run, base, base_dir, new_exp, tmp_path, last, most
):
    many, folder = (
        new_exp("many", tasks=[*(f"a{number}" for number in range(29)), last], bottleneck=4),
        tmp_path / "few",
    )
    folders.export(many / "adapter.safetensors", base, folder)
    remedies = f"raise --submodel-mb to 1, or set --route-nearest to {most} or less"
    with pytest.raises(ConfigError, match=rf"compares 30 Submodels .* only 17 fit in memory; {remedies}"):
        run("likelihood", exp=base_dir, submodels=folder, submodel_mb=0.02)
    assert len(read_routes(run("likelihood", exp=base_dir, submodels=folder, submodel_mb=1))) == 6


def test_hypotheses_elsewhere_have_a_record_for_reports(run, exp, tmp_path):
    run("likelihood", out=tmp_path / "routed/decode_valid")
    record = RunRecord.read(tmp_path / "routed/run.json")
    assert (record.name, record.kind, record.tasks) == ("routed", "residual", ["spk1", "spk10", "spk2"])
    run("likelihood")
    assert not (exp / "run.json").exists()
