"""Imported models: one folder that holds all of a release, or nothing."""

import json
import os
import shutil
import zipfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch

from adaptkit.base import archive, checkpoint, importing
from adaptkit.config import read_yaml, write_yaml
from adaptkit.errors import AdaptkitError
from tests.base.test_archive import exp_of, zip_folder

NAME = "librispeech_conformer"


@pytest.fixture
def released(new_archive, tmp_path):
    """An archive that a test may spoil."""
    return shutil.copytree(new_archive(NAME), tmp_path / "released", symlinks=True)


def contents(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_an_imported_model_is_complete_and_the_same(new_archive, tmp_path):
    root, out = new_archive(NAME), tmp_path / "base"
    origin = importing.import_model(str(root), out)
    parts = {"config.yaml", "model.pth", "bpe.model", "feats_stats.npz", "meta.yaml", "README.md", "LICENSE"}
    assert contents(out) == parts | {"lm/config.yaml", "lm/model.pth", "import.json"}
    assert checkpoint.load(out).fingerprint == checkpoint.load(root).fingerprint == origin.fingerprint
    assert all(
        sha256((out / name).read_bytes()).hexdigest() == digest for name, digest in origin.sha256.items()
    )
    assert set(origin.sha256) == contents(out) - {"import.json"}
    assert importing.read_origin(archive.own_files(out)) == origin


def test_an_imported_model_may_move_and_its_files_are_found_first_beside_it(new_archive, tmp_path):
    importing.import_model(str(new_archive(NAME)), tmp_path / "base")
    expected = checkpoint.load(tmp_path / "base")
    shutil.move(tmp_path / "base", tmp_path / "moved")
    (tmp_path / "base").mkdir()
    (tmp_path / "base/bpe.model").write_bytes(b"another model's")
    moved = checkpoint.load(tmp_path / "moved")
    assert (moved.fingerprint, moved.tokens) == (expected.fingerprint, expected.tokens)
    assert moved.files.lm_model == tmp_path / "moved/lm/model.pth"


def test_paths_of_an_imported_configuration_hold_from_any_working_folder(new_archive, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    importing.import_model(str(new_archive(NAME)), Path("base"))
    config, lm = (read_yaml(tmp_path / "base" / name) for name in ("config.yaml", "lm/config.yaml"))
    named = [config["bpemodel"], config["normalize_conf"]["stats_file"], lm["bpemodel"]]
    assert named == [str(tmp_path / "base" / name) for name in ("bpe.model", "feats_stats.npz", "bpe.model")]


def test_an_imported_model_is_an_archive_itself(new_archive, tmp_path):
    importing.import_model(str(new_archive(NAME)), tmp_path / "base")
    (tmp_path / "base/model.pth").rename(tmp_path / "base/other.pth")
    meta = read_yaml(tmp_path / "base/meta.yaml")
    meta["files"]["asr_model_file"] = "other.pth"
    write_yaml(tmp_path / "base/meta.yaml", meta)
    assert archive.locate(tmp_path / "base").lm_model == tmp_path / "base/lm/model.pth"
    assert meta["espnet"] == "202511"


@pytest.mark.parametrize("form", ["zip", "exp", "file"])
def test_every_form_of_an_archive_is_imported(new_archive, tmp_path, form):
    root = new_archive(NAME)
    exp = exp_of(root)
    source = {"zip": tmp_path / "model.zip", "exp": exp, "file": exp / "valid.acc.ave_10best.pth"}[form]
    if form == "zip":
        zip_folder(root, source)
    importing.import_model(str(source), tmp_path / "base")
    assert checkpoint.load(tmp_path / "base").fingerprint == checkpoint.load(root).fingerprint
    assert (tmp_path / "base/lm/model.pth").stat().st_size > 1000


def test_lost_statistics_are_written_from_the_weights(released, tmp_path):
    expected = np.load(next(released.glob("exp/*stats*/**/*.npz")))
    for stats in released.glob("exp/*stats*"):
        shutil.rmtree(stats)
    importing.import_model(str(released), tmp_path / "base")
    found = np.load(tmp_path / "base/feats_stats.npz")
    assert found["sum"] / found["count"] == pytest.approx(expected["sum"] / expected["count"], rel=1e-5)


def test_one_of_two_models_is_imported_by_its_name(released, tmp_path):
    exp = exp_of(released)
    weights = torch.load(exp / "valid.acc.ave_10best.pth")
    weights["ctc.ctc_lo.bias"] += 1
    torch.save(weights, exp / "valid.loss.ave_10best.pth")
    for number, name in enumerate((None, "valid.loss.ave_10best.pth")):
        importing.import_model(str(released), tmp_path / f"base{number}", model_file=name)
    found = [torch.load(tmp_path / f"base{number}/model.pth")["ctc.ctc_lo.bias"] for number in (0, 1)]
    assert torch.equal(found[0] + 1, found[1])


def spoil_tokens(released):
    config = exp_of(released) / "config.yaml"
    write_yaml(config, {**read_yaml(config), "token_list": None})


def spoil_model(released):
    path = exp_of(released) / "valid.acc.ave_10best.pth"
    os.truncate(path, path.stat().st_size // 2)


def spoil_lm_tokens(released):
    config = archive.locate(released).lm_config
    content = read_yaml(config)
    write_yaml(config, {**content, "token_list": [*content["token_list"][:-2], "<sos/eos>"]})


def spoil_lm(released):
    archive.locate(released).lm_model.write_bytes(b"no model")


def spoil_bpe(released):
    next(released.glob("data/**/bpe.model")).write_bytes(b"no model")


def lose_config(released):
    (exp_of(released) / "config.yaml").unlink()


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (spoil_tokens, "config.yaml: has no list 'token_list'"),
        (spoil_model, "not a complete file of model weights"),
        (
            spoil_lm_tokens,
            r"has another token list \(\d+ tokens\) than the recogniser .*remove lm_train_config",
        ),
        (spoil_lm, "valid.loss.ave_10best.pth: not a complete file"),
        (spoil_bpe, "bpe.model: not a sentencepiece model"),
        (lose_config, "asr_train_config: .* does not exist"),
    ],
)
def test_what_cannot_be_used_leaves_nothing_behind(released, tmp_path, spoil, expected):
    spoil(released)
    with pytest.raises(AdaptkitError, match=expected):
        importing.import_model(str(released), tmp_path / "base")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["released"]


def test_a_language_model_of_other_tokens_that_no_meta_yaml_names_is_left_out(released, tmp_path, caplog):
    spoil_lm_tokens(released)
    (released / "meta.yaml").unlink()
    importing.import_model(str(exp_of(released)), tmp_path / "base")
    assert not (tmp_path / "base/lm").exists()
    assert "has another token list" in caplog.text


@pytest.mark.parametrize("how", ["bomb", "outside", "truncated"])
def test_an_unsafe_zip_leaves_nothing_behind(adaptkit, new_archive, tmp_path, how):
    path = zip_folder(new_archive(NAME), tmp_path / "model.zip")
    if how == "truncated":
        os.truncate(path, path.stat().st_size // 2)
    else:
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as changed:
            changed.writestr(*{"bomb": ("a.pth", bytes(8 << 20)), "outside": ("../a.yaml", b"")}[how])
    done = adaptkit("base", "import", path, "--out", tmp_path / "base")
    assert (done.exit_code, done.stderr.startswith(f"adaptkit: {path}: ")) == (1, True)
    assert [file.name for file in tmp_path.iterdir()] == ["model.zip"]


def test_the_recogniser_is_imported_alone_once_meta_yaml_no_longer_names_the_language_model(
    released, tmp_path
):
    spoil_lm_tokens(released)
    meta = read_yaml(released / "meta.yaml")
    del meta["yaml_files"]["lm_train_config"], meta["files"]["lm_file"]
    write_yaml(released / "meta.yaml", meta)
    importing.import_model(str(released), tmp_path / "base")
    assert not (tmp_path / "base/lm").exists()


def test_a_folder_that_holds_something_is_left_alone(new_archive, base_dir, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(base_dir, out)
    with pytest.raises(AdaptkitError, match="already contains a base model"):
        importing.import_model(str(new_archive(NAME)), out)
    (out / "model.pth").rename(out / "notes.txt")
    before = contents(out)
    with pytest.raises(AdaptkitError, match="holds other files .notes.txt.; choose another folder"):
        importing.import_model(str(new_archive(NAME)), out)
    assert contents(out) == before


def test_an_import_is_kept_by_another_of_the_same_model(new_archive, tmp_path):
    packed, out = tmp_path / "model.zip", tmp_path / "base"
    zip_folder(new_archive(NAME), packed)
    first = importing.import_model(str(packed), out)
    assert importing.import_model(str(packed), out) == first
    packed.unlink()
    assert importing.import_model(str(packed), out) == first


def test_an_import_is_not_taken_for_that_of_another_model(released, tmp_path):
    importing.import_model(str(released), tmp_path / "base")
    before = (tmp_path / "base/model.pth").read_bytes()
    path = exp_of(released) / "valid.acc.ave_10best.pth"
    weights = torch.load(path)
    weights["ctc.ctc_lo.bias"] += 1
    torch.save(weights, path)
    with pytest.raises(AdaptkitError, match="imported from .*, which is not the same; remove the folder"):
        importing.import_model(str(released), tmp_path / "base")
    assert (tmp_path / "base/model.pth").read_bytes() == before


def test_an_import_is_not_taken_for_that_of_another_model_file(released, tmp_path):
    importing.import_model(str(released), tmp_path / "base")
    shutil.rmtree(released)
    with pytest.raises(AdaptkitError, match="no such file"):
        importing.import_model(str(released), tmp_path / "base", model_file="valid.loss.ave_10best.pth")
    same = importing.import_model(str(released), tmp_path / "base", model_file="valid.acc.ave_10best.pth")
    assert same.source == str(released)


def test_an_import_is_not_taken_for_one_with_another_language_model(released, tmp_path):
    importing.import_model(str(released), tmp_path / "base")
    path = archive.locate(released).lm_model
    weights = torch.load(path)
    torch.save({name: value + 1 for name, value in weights.items()}, path)
    with pytest.raises(AdaptkitError, match="which is not the same"):
        importing.import_model(str(released), tmp_path / "base")


def test_an_import_that_was_killed_is_repeated(new_archive, tmp_path):
    out = tmp_path / "base"
    (out / "lm").mkdir(parents=True)
    for name in (
        "config.yaml",
        "bpe.model",
        "lm/model.pth",
        ".model.123.partial.pth",
        "README.md",
        "import.json",
    ):
        (out / name).write_text("half")
    importing.import_model(str(new_archive(NAME)), out)
    assert checkpoint.load(out).fingerprint == checkpoint.load(new_archive(NAME)).fingerprint
    assert not list(out.glob(".*"))


def test_a_model_whose_training_has_not_finished_is_not_imported(base_dir, tmp_path):
    shutil.copytree(base_dir, tmp_path / "trained")
    (tmp_path / "trained/train.jsonl").touch()
    for source in ("trained", "trained/model.pth"):
        with pytest.raises(AdaptkitError, match="has not finished"):
            importing.import_model(str(tmp_path / source), tmp_path / "base")
    (tmp_path / "trained/train.jsonl").unlink()
    importing.import_model(str(tmp_path / "trained"), tmp_path / "base")
    found, expected = (checkpoint.load(tmp_path / name).fingerprint for name in ("base", "trained"))
    assert found == expected


def test_revisions_and_downloads_are_of_tags(new_archive, tmp_path):
    for options in ({"revision": "main"}, {"download": True}):
        with pytest.raises(AdaptkitError, match="a path; --revision and --download are for tags"):
            importing.import_model(str(new_archive(NAME)), tmp_path / "base", **options)


def test_a_damaged_record_of_an_import_is_named(tmp_path):
    (tmp_path / "import.json").write_text("{")
    with pytest.raises(AdaptkitError, match="import.json: damaged"):
        importing.read_origin(archive.own_files(tmp_path))


def test_the_command_imports_and_shows_a_model(adaptkit, new_archive, tmp_path):
    done = adaptkit("base", "import", new_archive(NAME), "--out", tmp_path / "base")
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path}/base\n")
    shown = adaptkit("base", "info", tmp_path / "base").stdout
    for line in (
        f"source       {new_archive(NAME)}",
        f"LM           {tmp_path}/base/lm/model.pth",
        f"tokens       {len(read_yaml(tmp_path / 'base/config.yaml')['token_list'])} pieces of BPE",
        "licence      cc-by-4.0, LICENSE",
    ):
        assert f"{line}\n" in shown
    assert json.loads((tmp_path / "base/import.json").read_text())["revision"] is None


def damaged(released, *, keeps_list):
    """Damage two tokens as an old espnet_model_zoo did."""
    path = exp_of(released) / "config.yaml"
    config = read_yaml(path)
    tokens = list(config["token_list"])
    listed = next(released.glob("data/**/tokens.txt"))
    original = [*tokens[:5], "exp", *tokens[6:9], ".", *tokens[10:]]
    listed.write_text("".join(f"{token}\n" for token in original))
    if not keeps_list:
        listed.unlink()
    cache = "/home/me/.cache/espnet/0123"
    write_yaml(
        path, {**config, "token_list": [*tokens[:5], f"{cache}/exp", *tokens[6:9], cache, *tokens[10:]]}
    )
    return original


def test_tokens_that_an_old_cache_damaged_are_mended_from_the_list(released):
    (released / "exp/lm_train_lm_transformer_en_bpe/config.yaml").unlink()
    original = damaged(released, keeps_list=True)
    assert list(checkpoint.load(released).tokens.tokens) == original


def test_tokens_that_an_old_cache_damaged_are_refused_without_the_list(released):
    damaged(released, keeps_list=False)
    expected = "token 5 is /home/me/.cache/espnet/0123/exp, token 9 is .*espnet_model_zoo up to 0.1.7"
    with pytest.raises(AdaptkitError, match=expected):
        checkpoint.load(released)
