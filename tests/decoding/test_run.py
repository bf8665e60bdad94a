"""Decoding a data directory into a folder of hypotheses."""

import logging
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adaptkit import experiment
from adaptkit.base import checkpoint as base_checkpoint
from adaptkit.decoding.run import DecodeOptions, decode_folder
from adaptkit.errors import AdaptkitError, CheckpointError, ConfigError
from adaptkit.files import checksum
from adaptkit.kaldi.tables import read_table, write_table
from adaptkit.model import checkpoint
from adaptkit.records import DecodeRecord, RunRecord
from adaptkit.scoring import files as score_files
from adaptkit.search_options import SearchRequest, read_search
from tests.fixtures.models import SPEAKERS


@pytest.fixture
def data(corpus, tmp_path):
    """The validation set with features, in a folder that a test may spoil."""
    return shutil.copytree(corpus / "dump/valid", tmp_path / "valid")


@pytest.fixture
def run(exp, data):
    """Decode into a folder; keywords replace options."""
    options = DecodeOptions(exp, data)
    return lambda **changes: decode_folder(replace(options, **changes), device="cpu")


def test_a_folder_is_decoded_into_text_scores_and_a_record(run, exp, data, base):
    out = run()
    assert out == exp / "decode_valid"
    assert (
        read_table(out / "text").keys()
        == read_table(out / "utt2score").keys()
        == read_table(data / "text").keys()
    )
    record = DecodeRecord.read(out / "run.json")
    frames = sum(int(count) for count in read_table(data / "utt2num_frames").values())
    assert (record.set_name, record.num_utterances) == ("valid", 6)
    assert (record.data, record.base_fingerprint) == (str(data), base.fingerprint)
    assert list(record.weights.values()) == [checksum(exp / "adapter.safetensors")]
    assert record.audio_sec == pytest.approx(0.01 * frames)


def test_decoding_again_gives_the_same_files(run):
    first = (run() / "text").read_bytes()
    assert (run(batch_frames=1) / "text").read_bytes() == first


@pytest.mark.parametrize("name", ["exp", "data", "base"])
def test_hypotheses_do_not_replace_an_experiment_a_base_model_or_references(run, exp, data, base_dir, name):
    out = {"exp": exp, "data": data, "base": base_dir}[name]
    before = {path: path.read_bytes() for path in out.iterdir() if path.is_file()}
    with pytest.raises(ConfigError, match=f"--out {out}: holds .*; name another folder, such as"):
        run(out=out)
    assert {path: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_hypotheses_of_another_set_of_that_name_are_replaced_with_a_warning(run, data, tmp_path, caplog):
    run()
    run()
    assert "replaces" not in caplog.text
    run(data=shutil.copytree(data, tmp_path / "other/valid"))
    assert f"replaces the hypotheses of {data} by those of {tmp_path}/other/valid" in caplog.text


def test_hypotheses_of_another_search_are_replaced_with_a_warning(run, exp, caplog):
    beam = SearchRequest(read_search({"kind": "beam", "ctc_weight": 1.0, "beam_size": 2}))
    run()
    run(search=beam, out=exp / "decode_valid_beam")
    assert "replaces" not in caplog.text
    run(search=beam)
    message = "replaces hypotheses of greedy search by those of beam search, beam_size 2, "
    assert f"{exp}/decode_valid: {message}" in caplog.text


def test_folders_that_a_point_stands_for_have_their_names(run, exp, data, monkeypatch):
    monkeypatch.chdir(data)
    assert run(data=Path(".")) == exp / "decode_valid"
    assert DecodeRecord.read(exp / "decode_valid/run.json").set_name == "valid"
    monkeypatch.chdir(exp)
    assert run(exp=Path("."), base_only=True) == exp.parent / "none/decode_valid"


def test_the_base_alone_is_an_experiment_of_its_own(run, exp, base):
    out = run(base_only=True)
    assert out == exp.parent / "none/decode_valid"
    assert RunRecord.read(out.parent / "run.json").base_fingerprint == base.fingerprint
    assert (out / "text").read_text() != (run() / "text").read_text()


def test_a_base_folder_is_decoded_as_the_base_alone(run, base_dir, tmp_path):
    out = run(exp=base_dir, out=tmp_path / "here/decode_valid")
    assert DecodeRecord.read(out / "run.json").base_only
    assert (out / "text").read_text() == (run(base_only=True) / "text").read_text()


@pytest.mark.parametrize("name", ["exp", "data", "nowhere"])
def test_a_base_folder_and_another_base_are_refused(run, exp, data, base_dir, tmp_path, name):
    other = {"exp": exp, "data": data, "nowhere": tmp_path / "nowhere"}[name]
    with pytest.raises(ConfigError, match=f"{base_dir}: a base model, but --base names another, {other}; "):
        run(exp=base_dir, base=other, out=tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_a_base_folder_may_be_named_twice(run, base_dir, tmp_path):
    (tmp_path / "link").symlink_to(base_dir)
    out = run(exp=base_dir, base=tmp_path / "link", out=tmp_path / "here/decode_valid")
    assert (out / "text").read_text() == (run(base_only=True) / "text").read_text()


def test_an_unknown_task_is_refused_before_anything_is_written(run, exp, data):
    write_table(data / "utt2task", {**read_table(data / "utt2spk"), "spk1-00": "spk20"})
    with pytest.raises(CheckpointError, match=r"not 'spk20'; did you mean 'spk2'\?.*--unknown-speaker base"):
        run()
    assert not (exp / "decode_valid").exists()


def test_an_unknown_task_can_be_left_to_the_base(run, data):
    expected, base = read_table(run() / "text"), read_table(run(base_only=True) / "text")
    write_table(data / "utt2task", {**read_table(data / "utt2spk"), "spk1-00": "spk20"})
    found = read_table(run(unknown_speaker="base") / "text")
    assert found == {**expected, "spk1-00": base["spk1-00"]}


def test_an_utterance_too_short_for_the_encoder_has_no_words_and_is_named(run, data, forget_records, caplog):
    forget_records(data)
    write_table(data / "utt2num_frames", {**read_table(data / "utt2num_frames"), "spk2-00": "6"})
    found = read_table(run() / "text")
    assert found["spk2-00"] == ""
    assert len(found) == 6
    assert "too short for the encoder, no words: spk2-00" in caplog.text


def test_a_set_of_nothing_but_short_utterances_is_decoded_to_nothing(run, data, forget_records):
    forget_records(data)
    write_table(data / "utt2num_frames", dict.fromkeys(read_table(data / "utt2num_frames"), "3"))
    assert set(read_table(run() / "text").values()) == {""}


@pytest.mark.parametrize("content", [None, "".join(f"{s}-0{n}\n" for s in SPEAKERS for n in range(2))])
def test_a_set_without_words_is_decoded_as_with_them(run, data, content):
    expected = (run() / "text").read_bytes()
    (data / "text").unlink() if content is None else (data / "text").write_text(content)
    assert (run() / "text").read_bytes() == expected


def test_decoding_again_removes_what_was_scored_before(run, data):
    out = run()
    score_files.write(score_files.score_files(data, out), out)
    (out / "utt2spk").write_text("kept")
    run()
    assert sorted(p.name for p in out.iterdir() if p.name[0] != ".") == [
        "run.json",
        "text",
        "utt2score",
        "utt2spk",
    ]


@pytest.mark.slow
def test_refused_decoding_removes_nothing(run, data, tmp_path):
    out = run()
    score_files.write(score_files.score_files(data, out), out)
    with pytest.raises(AdaptkitError):
        run(base=tmp_path / "nowhere")
    assert (out / "score.json").exists()


def test_adapters_that_no_speaker_owns_fit_unknown_speakers(base, new_stack, run, exp, data):
    stack = new_stack(base, "bitfit", per_task=False)
    torch.nn.init.normal_(next(stack.parameters()), std=0.3)
    checkpoint.save(exp / "adapter.safetensors", stack, base.fingerprint, 7, stack.state_dict())
    expected, alone = (read_table(run(**options) / "utt2score") for options in ({}, {"base_only": True}))
    write_table(data / "utt2task", {**read_table(data / "utt2spk"), "spk1-00": "spk20"})
    assert read_table(run() / "utt2score") == expected
    assert read_table(run(unknown_speaker="base") / "utt2score") == {**expected, "spk1-00": alone["spk1-00"]}
    assert expected["spk1-00"] != alone["spk1-00"]


def test_another_base_is_refused(run, new_base, tmp_path):
    other = new_base(seed=1)
    base_checkpoint.save(tmp_path / "other", other.config, other.model.state_dict())
    with pytest.raises(CheckpointError, match="other is .*; set --base to the folder of the right one"):
        run(base=tmp_path / "other")


def test_a_base_that_moved_is_found_with_its_new_folder(run, base_dir, tmp_path):
    expected = (run() / "text").read_bytes()
    shutil.copytree(base_dir, tmp_path / "moved")
    assert (run(base=tmp_path / "moved") / "text").read_bytes() == expected


def test_settings_say_where_the_base_is(run, base_dir, tmp_path):
    expected = (run(base_only=True) / "text").read_bytes()
    moved = shutil.copytree(base_dir, tmp_path / "moved")
    out = run(base_only=True, overrides=(f"base.dir={moved}",))
    assert (out / "text").read_bytes() == expected
    with pytest.raises(CheckpointError, match="nowhere: not a base model"):
        run(overrides=(f"base.dir={tmp_path}/nowhere",))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overrides": ("train.lr=1", "base.dir=x")}, "--set train.lr=1: no effect on decoding"),
        ({"overrides": ("base.dir=x",), "base": Path("y")}, "--base and --set both say which base model"),
    ],
)
def test_settings_without_effect_are_refused(run, changes, message):
    with pytest.raises(ConfigError, match=message):
        run(**changes)


def test_settings_of_a_base_folder_are_refused(run, base_dir):
    with pytest.raises(ConfigError, match="a base model, of which --set changes base.prompt alone, not "):
        run(exp=base_dir, overrides=("base.dir=x",))


def test_an_experiment_that_is_not_there_is_named(run, tmp_path):
    with pytest.raises(AdaptkitError, match=r"nowhere/config.yaml: no such file"):
        run(exp=tmp_path / "nowhere")


def test_an_experiment_not_trained_yet_is_named_with_what_trains_it(run, exp):
    (exp / "adapter.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match="adapter.safetensors: no such file; 'adaptkit train' writes it"
    ):
        run()


def test_references_that_the_model_cannot_write_are_warned_of_until_they_are_respelled(
    run, data, base_dir, caplog, adaptkit
):
    texts = read_table(data / "text")
    write_table(data / "text", texts | {"spk1-00": f"{texts['spk1-00'].lower()}, {texts['spk1-00']}!"})
    run()
    (warning,) = [r.getMessage() for r in caplog.records if "has no tokens for" in r.getMessage()]
    assert f"{data}/text: 1 of 6 references with '!', ','" in warning
    assert "as in spk1-00: '" in warning
    remedy = shlex.split(re.search("'adaptkit (data fix .*?)'", warning)[1])
    assert remedy == ["data", "fix", str(data), "--base", str(base_dir)]
    adaptkit(*remedy)
    caplog.clear()
    run()
    assert read_table(data / "text") == texts | {"spk1-00": " ".join([texts["spk1-00"]] * 2)}
    assert "has no tokens for" not in caplog.text


def test_sentences_of_the_training_set_are_said(run, exp, data, corpus, caplog):
    caplog.set_level(logging.INFO)
    run()
    where = f"{corpus}/dump/train"
    found = f"{data}: the sentences of 3 of 6 utterances are in the training set {where}: 'B' (spk1-00); "
    assert found in caplog.text
    write_table(data / "text", dict.fromkeys(read_table(data / "text"), "B"))
    run()
    assert f"{data}: the sentences of 6 of 6 utterances are in {where} too" in caplog.text
    caplog.clear()
    settings = experiment.load(exp / "config.yaml")
    gone = settings.data.model_copy(update={"train": data / "gone"})
    experiment.save(settings.model_copy(update={"data": gone}), exp / "config.yaml")
    run()
    assert "sentences" not in caplog.text
