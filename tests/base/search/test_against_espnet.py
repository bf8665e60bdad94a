"""Texts and scores of every search against ESPnet's own `Speech2Text` with the same settings."""

import logging
import runpy
from pathlib import Path

import pytest
import torch

from adaptkit.base import checkpoint
from adaptkit.base.classes import import_unchecked
from adaptkit.base.fold import fold, write
from adaptkit.base.importing import import_model
from adaptkit.base.search.choose import new_searcher
from adaptkit.base.transducer import importable
from adaptkit.config import read_yaml
from adaptkit.kaldi import datadir
from adaptkit.kaldi.datadir import DataDir, Utterance
from adaptkit.model.adapted import AdaptedModel
from adaptkit.search_options import Beam, SearchRequest, Transducer
from tests.fixtures.archives import LM_SIZES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of the tasks that ESPnet imports
]
ROOT = Path(__file__).parents[3]
LENGTHS = (24000, 30000, 17000)  # samples: 1.5 s, 1.9 s, 1.1 s
RNN = {"decoder": "rnn", "decoder_conf": {"num_layers": 1, "hidden_size": 24, "att_conf": {"adim": 16}}}
CTC = {"decoder": None, "decoder_conf": {}, "model_conf": {"ctc_weight": 1.0}}
HYBRID, LEGACY, CHARACTERS = "librispeech_conformer", "gigaspeech_conformer", "wsj_conformer"
LONG = {"lm_weight": 0.6, "length_bonus": 0.5}
BOUNDED = {"lm_weight": 1.2, "maxlenratio": -15.0, "minlenratio": 0.2}
PREFIX = {"beam_size": 4, "ctc_weight": 1.0}
MVN = {"normalize_conf": {}}  # which ESPnet wants to be there
BEAMS = {  # archive, changes of its config.yaml, options, kind of language model
    "joint": (HYBRID, {}, {"beam_size": 5, "nbest": 3}, None),
    "of_all_tokens": (HYBRID, {}, {"beam_size": 36, "maxlenratio": -6.0}, None),
    "attention": (HYBRID, {}, {"beam_size": 3, "ctc_weight": 0.0, "maxlenratio": 0.4, "nbest": 2}, None),
    "ctc_prefix": (HYBRID, {}, {**PREFIX, "normalize_length": True, "nbest": 4}, None),
    "ctc_alone": (HYBRID, CTC, {**PREFIX, "lm_weight": 0.4}, "transformer"),
    "transformer_lm": (HYBRID, {}, {"beam_size": 5, **LONG, "nbest": 2}, "transformer"),
    "rnn_lm": (HYBRID, {}, {"beam_size": 5, **BOUNDED}, "seq_rnn"),
    "rnn_decoder": (HYBRID, RNN, {"beam_size": 3, "maxlenratio": -12.0, "nbest": 2}, None),
    "legacy_positions": (LEGACY, {}, {"beam_size": 5, "ctc_weight": 0.2}, None),
    "characters": (CHARACTERS, MVN, {"beam_size": 5, "minlenratio": -9.0}, None),
}
UNDROPPED = {  # ESPnet leaves the dropout of a transducer's language model on
    "transformer": {
        **LM_SIZES["transformer"],
        **dict.fromkeys(("dropout_rate", "positional_dropout_rate", "attention_dropout_rate"), 0.0),
    },
    "seq_rnn": LM_SIZES["seq_rnn"],
}
TRANSDUCERS = {
    "greedy": ({"beam_size": 1}, None),
    "default": ({"beam_size": 2, "nbest": 2}, None),
    "lm": ({"beam_size": 2, "lm_weight": 0.3}, "transformer"),
    "tsd": ({"beam_size": 3, "search_type": "tsd", "max_sym_exp": 3}, None),
    "tsd_lm": ({"beam_size": 3, "search_type": "tsd", "lm_weight": 0.3}, "seq_rnn"),
    "alsd": ({"beam_size": 3, "search_type": "alsd", "u_max": 20, "score_norm_during": True}, None),
    "nsc": ({"beam_size": 3, "search_type": "nsc", "nstep": 2, "prefix_alpha": 2}, None),
    "maes": ({"beam_size": 3, "search_type": "maes", "score_norm": False, "nbest": 3}, None),
}


@pytest.fixture(scope="module")
def speech2text():
    """ESPnet's Speech2Text, which wants a loss that no package index has."""
    with importable():
        yield import_unchecked("espnet2.bin.asr_inference.Speech2Text")
    logging.getLogger().setLevel(logging.WARNING)


@pytest.fixture
def assert_equal(speech2text, new_speech, monkeypatch):
    """Assert that a search finds what ESPnet's finds: each row alone, and all in a batch."""

    def check(root, options, lm, **settings):
        base = checkpoint.load(root)
        if lm is not None:
            settings |= {
                "lm_train_config": str(lm / "config.yaml"),
                "lm_file": str(lm / "valid.loss.ave.pth"),
            }
        searcher = new_searcher(base, SearchRequest(options, lm=lm))
        batch, adapted = new_speech(*LENGTHS), AdaptedModel(base, is_frozen=True).eval()
        with torch.inference_mode(), adapted.hooked():
            found = adapted.recognise(batch, searcher)
            alone = [adapted.recognise(batch.rows([row]), searcher)[0] for row in range(len(LENGTHS))]
        monkeypatch.chdir(root)  # where the paths of the configuration start
        espnet = speech2text(
            str(base.files.config),
            str(base.files.model),
            **settings,
        )
        for row, length in enumerate(LENGTHS):
            expected = espnet(batch.inputs[row, :length])
            for paths in (alone[row], found[row]):
                assert [path.tokens for path in paths] == [ids for _, _, ids, _ in expected]
                assert [base.tokens.decode(path.tokens) for path in paths] == [text for text, *_ in expected]
                scores = [float(hypothesis.score) for *_, hypothesis in expected]
                assert [path.score for path in paths] == pytest.approx(scores, abs=1e-4, rel=1e-6)

    return check


@pytest.mark.parametrize("name", BEAMS)
def test_beam_search_is_espnets(name, new_archive, new_lm, assert_equal):
    archive, changes, options, kind = BEAMS[name]
    root = new_archive(archive, **changes)
    lm = None if kind is None else new_lm(kind, checkpoint.load(root).tokens.tokens)
    beam = Beam(**options)
    settings = beam.model_dump(exclude={"kind", "lm", "length_bonus"})
    assert_equal(root, beam, lm, **settings, penalty=beam.length_bonus)


@pytest.mark.parametrize("name", TRANSDUCERS)
def test_transducer_search_is_espnets(name, new_archive, new_lm, assert_equal):
    options, kind = TRANSDUCERS[name]
    root = new_archive("librispeech_transducer")
    lm = None if kind is None else new_lm(kind, checkpoint.load(root).tokens.tokens, lm_conf=UNDROPPED[kind])
    chosen = Transducer(**options)
    conf = chosen.model_dump(exclude={"kind", "lm", "lm_weight", "beam_size"})
    settings = {"beam_size": chosen.beam_size, "lm_weight": chosen.lm_weight, "nbest": chosen.nbest}
    assert_equal(root, chosen, lm, **settings, transducer_conf=conf)


def test_a_folded_release_is_espnets_from_any_working_folder(
    new_archive, new_stack, new_speech, speech2text, tmp_path, monkeypatch
):
    import_model(str(new_archive(HYBRID)), tmp_path / "base")
    base = checkpoint.load(tmp_path / "base")
    stack = new_stack(base, "lora", is_trained=True, rank=3)
    monkeypatch.chdir(tmp_path)
    write(fold(base, stack, "spk1"), Path("folded"))
    settings = {"beam_size": 3, "lm_weight": 0.4, "maxlenratio": 0.5}
    searcher, adapted = new_searcher(base, SearchRequest(Beam(**settings))), AdaptedModel(base, stack).eval()
    found = []
    for task_id in (stack.tasks.index("spk1"), -1):
        batch = new_speech(*LENGTHS, task_ids=(task_id,) * len(LENGTHS))
        with torch.inference_mode(), adapted.hooked():
            paths = adapted.recognise(batch, searcher)
        found.append([base.tokens.decode(best.tokens) for best, *_ in paths])

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    folded = tmp_path / "folded"
    meta = read_yaml(folded / "meta.yaml")
    files = {name: str(folded / file) for name, file in (meta["files"] | meta["yaml_files"]).items()}
    espnet = speech2text(**files, **settings, ctc_weight=0.3)
    texts = [espnet(batch.inputs[row, :length])[0][0] for row, length in enumerate(LENGTHS)]
    assert texts == found[0]
    assert texts != found[1]


def test_a_language_model_that_espnet_trains_for_a_recipe_joins_the_beam(new_archive, speech2text, tmp_path):
    task = import_unchecked("espnet2.tasks.lm.LMTask")
    prepare = runpy.run_path(str(ROOT / "recipes/train_lm.py"))["prepare"]
    utterances = tuple(Utterance(f"a-{index}", "a", f"a-{index}", "AN OLD MODEL") for index in range(3))
    datadir.write(DataDir(tmp_path / "data", utterances, {u.recording: "none.wav" for u in utterances}))
    words = prepare(new_archive(HYBRID), tmp_path / "data", tmp_path / "data", tmp_path / "lm")
    sizes = ("embed_unit=16", "att_unit=16", "head=2", "unit=16", "layer=1")
    small = [word for size in sizes for word in ("--lm_conf", size)]
    task.main(cmd=["--config", str(ROOT / "egs/an4/conf/lm.yaml"), *words, *small, "--max_epoch", "1"])

    request = SearchRequest(Beam(lm_weight=0.5), lm=tmp_path / "lm")
    assert new_searcher(checkpoint.load(new_archive(HYBRID)), request).lm is not None
