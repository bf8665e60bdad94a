"""Embeddings of known speakers: how they are compared, and which files are refused."""

import pytest
import torch

from adaptkit.errors import AdaptkitError, CheckpointError
from adaptkit.submodels.embeddings import fit, read_embeddings, refuse_missing
from adaptkit.tensors import read_tensors, write_tensors


@pytest.fixture
def exp(new_exp, adaptkit, corpus):
    """An experiment with the embeddings of its speakers."""
    folder = new_exp(bottleneck=4)
    assert adaptkit("submodels", "embed", folder, corpus / "dump/train", "--device", "cpu").exit_code == 0
    return folder


def points(*rows):
    return torch.tensor(rows)


def test_voices_are_compared_where_speakers_differ_most_beside_themselves():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 50, 2, generator=generator) * torch.tensor([10.0, 0.1])  # the first is no voice's
    made = fit({"a": noise[0] + points(0.0, 1.0), "b": noise[1] + points(0.0, -1.0)}, "9f", 0)
    assert made.compare(points(30.0, 1.0)).argmax() == 0
    assert made.compare(points(-30.0, -1.0)).argmax() == 1
    assert torch.allclose(made.means.norm(dim=1), torch.ones(2))


def test_without_two_utterances_of_anyone_it_is_the_cosine_about_the_mean():
    made = fit({"a": points([1.0, 0.0]), "b": points([0.0, 1.0])}, "9f", 0)
    cosines = made.compare(points(1.0, 0.0))
    assert torch.allclose(cosines, points(1.0, -1.0))
    assert made.threshold == -1


def test_the_threshold_errs_as_often_either_way():
    near, far = points([1.0, 0.01], [1.0, -0.01]), points([-1.0, 0.01], [-1.0, -0.01])
    made = fit({"a": near, "b": far}, "9f", 0)
    assert -1 < made.threshold <= 1
    assert made.compare(points(1.0, 0.0)).max() >= made.threshold


def test_every_speaker_has_an_embedding_of_the_first_block(exp, base, corpus):
    made = read_embeddings(exp, base)
    assert (made.tasks, made.block) == (("spk1", "spk10", "spk2"), 0)
    assert made.whitener.shape == (32, 32)


def test_submodels_have_their_embeddings_beside_them(adaptkit, base_dir, exp, export, base, corpus):
    folder = export(exp)
    refused = adaptkit("submodels", "embed", folder, corpus / "dump/train")
    assert "does not say where its base model is; add --base" in refused.stderr
    done = adaptkit(
        "submodels", "embed", folder, corpus / "dump/train", "--base", base_dir, "--device", "cpu"
    )
    assert done.stdout.strip() == str(folder / "+speakers.safetensors")
    assert torch.equal(read_embeddings(folder, base).means, read_embeddings(exp, base).means)
    listed = adaptkit("submodels", "list", folder, "--format", "json")
    assert "speakers" not in listed.stdout.replace(str(folder), "")


def test_what_embeds_submodels_is_told_their_base_model(exp, export, base):
    folder = export(exp)
    with pytest.raises(
        CheckpointError, match=f"'adaptkit submodels embed {folder} DATA --base DIR' writes it"
    ):
        read_embeddings(folder, base)


def test_a_speaker_without_utterances_is_named(adaptkit, new_exp, corpus):
    exp = new_exp(tasks=("spk1", "spk3"), bottleneck=4)
    done = adaptkit("submodels", "embed", exp, corpus / "dump/train", "--device", "cpu")
    assert done.exit_code == 1
    assert "no utterance of spk3; name the data directories that all speakers were trained on" in done.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_fingerprint": "0" * 32}, "made with base model 0+, but .*tiny is"),
        ({"holds": "submodel"}, "not as speaker embeddings of this version"),
        ({"block": 7}, "block: 7 is not a block of the model"),
        ({"threshold": 3.0}, "threshold: expected a cosine, found 3"),
        ({"tasks": ["spk1"]}, "do not fit the base model and the speakers"),
        ({"tasks": ["a", "a", "b"]}, "a speaker is named twice"),
        ({"tasks": None}, "expected a list of names"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_what_writes_it(exp, base, changes, message):
    path = exp / "speakers.safetensors"
    tensors, header = read_tensors(path)
    write_tensors(path, tensors, {**header, **changes})
    with pytest.raises(
        CheckpointError, match=f"{message}.*; 'adaptkit submodels embed {exp} DATA' writes it"
    ):
        read_embeddings(exp, base)


def test_missing_damaged_and_unrelated_files_are_refused(exp, base, tmp_path):
    path = exp / "speakers.safetensors"
    content = path.read_bytes()
    for spoilt in (content[:-5], b"", b"no tensors"):
        path.write_bytes(spoilt)
        with pytest.raises(AdaptkitError, match=r"speakers\.safetensors: .*submodels embed"):
            read_embeddings(exp, base)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"speakers\.safetensors: no such file; 'adaptkit submodels"):
        read_embeddings(exp, base)


def test_a_speaker_enrolled_since_is_named(exp, base):
    made = read_embeddings(exp, base)
    refuse_missing(made, ["spk1", "spk2"], exp)
    with pytest.raises(CheckpointError, match="has no embedding of anna; 'adaptkit submodels embed"):
        refuse_missing(made, ["spk1", "anna"], exp)
