"""Decoding with beam searches: what is written, and recorded."""

import json
from dataclasses import replace

import pytest

from adaptkit import config, experiment
from adaptkit.base import checkpoint as base_checkpoint
from adaptkit.decoding.run import DecodeOptions, decode_folder
from adaptkit.errors import AdaptkitError
from adaptkit.kaldi.tables import read_table
from adaptkit.model import checkpoint
from adaptkit.records import DecodeRecord
from adaptkit.search_options import Beam, SearchRequest

DECODER = {"attention_heads": 2, "linear_units": 16, "num_blocks": 1}


@pytest.fixture(scope="module")
def hybrid(new_base):
    return new_base(decoder="transformer", decoder_conf=DECODER, model_conf={"ctc_weight": 0.3})


@pytest.fixture
def base_dir(hybrid, tmp_path):
    base_checkpoint.save(tmp_path / "base", hybrid.config, hybrid.model.state_dict())
    return tmp_path / "base"


@pytest.fixture
def exp(hybrid, base_dir, new_stack, settings, tmp_path):
    """The folder of adapters of the hybrid model."""
    stack, folder = new_stack(hybrid, is_trained=True), tmp_path / "exp/tiny"
    experiment.save(settings(), folder / "config.yaml")
    checkpoint.save(folder / "adapter.safetensors", stack, hybrid.fingerprint, 7, stack.state_dict())
    return folder


@pytest.fixture
def run(exp, corpus):
    options = DecodeOptions(exp, corpus / "dump/valid")
    return lambda **changes: decode_folder(replace(options, **changes), device="cpu")


def test_n_best_lists_are_in_espnets_layout_with_the_best_as_the_text(run, hybrid):
    out = run(search=SearchRequest(nbest=3))
    ranks = sorted(path.name for path in (out / "nbest").iterdir())
    assert ranks == ["1best_recog", "2best_recog", "3best_recog"]
    best, second = out / "nbest/1best_recog", out / "nbest/2best_recog"
    assert (best / "text").read_bytes() == (out / "text").read_bytes()
    assert (best / "score").read_bytes() == (out / "utt2score").read_bytes()
    tokens = hybrid.tokens.tokens
    for utt_id, ids in read_table(second / "token_int").items():
        spelt = [tokens[int(index)] for index in ids.split()]
        assert read_table(second / "token")[utt_id] == " ".join(spelt)
        assert float(read_table(second / "score")[utt_id]) <= float(read_table(best / "score")[utt_id])


def test_lists_of_an_earlier_decoding_are_removed(run):
    run(search=SearchRequest(nbest=2))
    assert not (run() / "nbest").exists()


def test_a_record_says_what_was_searched_and_why(run):
    record = DecodeRecord.read(run(search=SearchRequest(changes=("beam_size=4",))) / "run.json")
    assert record.search == config.dump(Beam(beam_size=4))
    assert (record.search_reason, record.lm) == ("auto: CTC and an attention decoder", None)


def test_a_record_names_the_language_model(run, hybrid, new_lm):
    lm = new_lm("seq_rnn", hybrid.tokens.tokens)
    record = DecodeRecord.read(
        run(search=SearchRequest(Beam(beam_size=3, lm_weight=0.5), lm=lm)) / "run.json"
    )
    assert (record.search["lm"], record.lm) == (str(lm), str(lm / "valid.loss.ave.pth"))
    assert len(record.lm_sha256) == 64


def test_the_search_of_the_experiment_is_used_unless_another_is_asked_for(run, exp):
    content = config.read_yaml(exp / "config.yaml")
    config.write_yaml(exp / "config.yaml", {**content, "search": {"kind": "beam", "beam_size": 3}})
    assert DecodeRecord.read(run() / "run.json").search["beam_size"] == 3
    assert DecodeRecord.read(run(base_only=True) / "run.json").search["beam_size"] == 3
    found = DecodeRecord.read(run(search=SearchRequest(Beam(beam_size=2))) / "run.json")
    assert found.search["beam_size"] == 2


def test_mixed_batches_decode_as_single_utterances(run, tmp_path):
    options = SearchRequest(Beam(beam_size=4, nbest=2))
    together, alone = run(search=options), run(search=options, batch_frames=1, out=tmp_path / "alone")
    assert (together / "text").read_bytes() == (alone / "text").read_bytes()
    scores = [
        {utt: float(score) for utt, score in read_table(out / "nbest/2best_recog/score").items()}
        for out in (together, alone)
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)


def test_records_of_before_are_read(run):
    path = run() / "run.json"
    record = json.loads(path.read_text())
    for name in ("search", "search_reason", "lm", "lm_sha256"):
        del record[name]
    path.write_text(json.dumps(record))
    assert DecodeRecord.read(path).search is None


def test_the_command_line_asks_for_searches(adaptkit, exp, corpus, tmp_path):
    words = ("decode", exp, corpus / "dump/valid", "--out", tmp_path / "out")
    done = adaptkit(*words, "--search", "beam", "--search-set", "beam_size=3", "--nbest", 2)
    assert (done.exit_code, done.stderr) == (0, "")
    record = DecodeRecord.read(tmp_path / "out/run.json")
    assert (record.search["beam_size"], record.search["nbest"], record.search_reason) == (
        3,
        2,
        "as requested",
    )
    assert (tmp_path / "out/nbest/2best_recog/text").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--search", "bean"), "no conf/decode/bean.yaml here, above or in adaptkit; did you mean 'beam'?"),
        (("--search", "beam"), "beam_size 10 with 7 tokens; use --search-set beam_size=7 or less"),
        (("--search-set", "beam_size=0"), "beam_size: Input should be greater than 0"),
        (("--search-set", "beam_size"), "--search-set beam_size: expected key=value"),
        (("--search", "transducer"), "not a transducer; use --search beam, or --search auto"),
        (("--search", "greedy", "--nbest", 2), "greedy search finds one hypothesis"),
        (("--search", "wsj"), "lm_weight 1.2, but there is no language model: name its folder with --lm"),
        (("--lm", "nowhere"), "nowhere: not a language model: no such file or folder"),
    ],
)
def test_a_search_that_cannot_be_is_one_message(adaptkit, exp, corpus, tmp_path, words, message):
    changes = ("--search-set", "beam_size=7") if words[-1] == "wsj" else ()
    done = adaptkit("decode", exp, corpus / "dump/valid", "--out", tmp_path / "out", *words, *changes)
    assert done.exit_code == 1
    assert message in done.stderr
    assert not (tmp_path / "out/text").exists()


@pytest.mark.parametrize(("option", "value", "word"), [("--nbest", 2, "nbest=5"), ("--lm", "lm", "lm=other")])
def test_an_option_of_a_search_is_not_given_twice(adaptkit, exp, corpus, option, value, word):
    words = ("--search", "beam", option, value, "--search-set", word)
    done = adaptkit("decode", exp, corpus / "dump/valid", *words)
    assert done.exit_code == 2
    assert f"--search-set {word} and {option} both set" in " ".join(done.stderr.split())


def test_a_link_for_the_folder_of_lists_is_not_followed(run):
    out = run()
    (out / "nbest").symlink_to("/", target_is_directory=True)
    with pytest.raises(AdaptkitError, match="nbest"):
        run()
