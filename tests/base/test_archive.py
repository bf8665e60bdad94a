"""Released archives in place: folders, model files and zips of one model, and what is ambiguous or unsafe."""

import os
import shutil
import stat
import zipfile
from pathlib import Path

import pytest
import torch

from adaptkit.base import archive, checkpoint
from adaptkit.config import read_yaml, write_yaml
from adaptkit.errors import CheckpointError

NAME = "librispeech_conformer"


@pytest.fixture
def released(new_archive, tmp_path):
    """An archive that a test may spoil."""
    return shutil.copytree(new_archive(NAME), tmp_path / "released", symlinks=True)


def exp_of(root: Path) -> Path:
    return next(root.glob("exp/asr_train_*"))


def zip_folder(folder: Path, path: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(file for file in folder.rglob("*") if file.is_file() and not file.is_symlink()):
            archive.write(file, f"{prefix}{file.relative_to(folder)}")
    return path


def test_an_archive_is_the_same_model_in_every_form(new_archive, tmp_path):
    root = new_archive(NAME)
    exp = exp_of(root)
    whole = checkpoint.load(root)
    forms = [exp, exp / "valid.acc.ave_10best.pth", exp / "valid.acc.ave.pth", root / "exp"]
    forms += [zip_folder(root, tmp_path / "flat.zip"), zip_folder(root, tmp_path / "deep.zip", "a/b/")]
    with zipfile.ZipFile(tmp_path / "deep.zip", "a") as changed:
        changed.writestr("__MACOSX/a/._b", b"")  # as macOS adds it
    loaded = [checkpoint.load(form) for form in forms]
    assert {base.fingerprint for base in loaded} == {whole.fingerprint}
    assert all(base.tokens == whole.tokens for base in loaded)
    assert loaded[-1].tokens.encode("AN OLD MODEL") == whole.tokens.encode("AN OLD MODEL")


@pytest.mark.parametrize("name", ["gigaspeech_conformer", "aishell_conformer", "wsj_conformer"])
def test_archives_of_old_releases_and_other_languages_load(new_archive, name):
    base = checkpoint.load(new_archive(name))
    assert (base.features, base.rate_hz) == (None, 16000)


def test_an_archive_is_found_from_any_working_folder(released, tmp_path, monkeypatch):
    other = tmp_path / "data/en_token_list/bpe_unigram48"
    other.mkdir(parents=True)
    (other / "bpe.model").write_bytes(b"another model's")
    monkeypatch.chdir(tmp_path)
    relative = checkpoint.load(exp_of(Path("released")))
    monkeypatch.chdir(exp_of(released))
    assert checkpoint.load(Path(".")).fingerprint == relative.fingerprint


def test_the_language_model_and_the_notices_of_an_archive_are_found(new_archive):
    files = archive.locate(exp_of(new_archive(NAME)))
    assert (files.lm_config.name, files.lm_model.name) == ("config.yaml", "valid.loss.ave_10best.pth")
    assert [path.name for path in files.notices] == ["LICENSE", "README.md"]


def test_an_archive_without_meta_yaml_is_found_by_its_folders(released):
    (released / "meta.yaml").unlink()
    files = archive.locate(released)
    assert (files.config.parent, files.root) == (exp_of(released), released)
    assert files.lm_model.parent.name.startswith("lm_")


def test_two_recognisers_in_one_archive_are_named(released):
    (released / "meta.yaml").unlink()
    shutil.copytree(exp_of(released), released / "exp/asr_train_other")
    with pytest.raises(CheckpointError, match="holds several models: .*; give the folder of one"):
        archive.locate(released)


def test_two_models_in_one_folder_are_named_and_one_can_be_given(released):
    (released / "meta.yaml").unlink()
    exp = exp_of(released)
    shutil.copy(exp / "valid.acc.ave_10best.pth", exp / "valid.loss.ave_10best.pth")
    expected = "2 models: valid.acc.ave_10best.pth, valid.loss.ave_10best.pth; give the path of one"
    with pytest.raises(CheckpointError, match=expected):
        archive.locate(exp)
    for files in (
        archive.locate(exp / "valid.loss.ave_10best.pth"),
        archive.locate(exp, model_file="valid.loss.ave_10best.pth"),
    ):
        assert files.model == exp / "valid.loss.ave_10best.pth"
    with pytest.raises(CheckpointError, match=r"no file nowhere.pth; it holds valid.acc.*, valid.loss"):
        archive.locate(exp, model_file="nowhere.pth")


def test_a_model_file_is_not_exchanged_for_another_name(released):
    model = exp_of(released) / "valid.acc.ave_10best.pth"
    assert archive.locate(model, model_file=model.name).model == model
    with pytest.raises(CheckpointError, match="a model file itself, but --model-file names other.pth; omit"):
        archive.locate(model, model_file="other.pth")


def test_a_model_file_is_found_though_that_of_meta_yaml_is_not_there(released):
    exp = exp_of(released)
    kept = (exp / "valid.acc.ave_10best.pth").rename(exp / "valid.loss.ave_10best.pth")
    assert archive.locate(kept).model == kept


def test_a_language_model_in_training_does_not_stand_in_the_way(released, caplog):
    (released / "meta.yaml").unlink()
    lm = next(released.glob("exp/lm_*"))
    shutil.copy(next(lm.glob("*.pth")), lm / "train.loss.ave_10best.pth")
    assert archive.locate(exp_of(released)).lm_model is None
    assert "2 models: train.loss.ave_10best.pth" in caplog.text
    assert "used without a language model" in caplog.text


def test_meta_yaml_decides_between_two_models(released):
    exp = exp_of(released)
    torch.save({}, exp / "valid.loss.ave_10best.pth")
    for source in (released, exp):
        assert archive.locate(source).model.name == "valid.acc.ave_10best.pth"


@pytest.mark.parametrize("form", ["folder", "file", "meta.yaml"])
def test_a_training_state_is_refused(released, form):
    exp = exp_of(released)
    shutil.move(exp / "valid.acc.ave_10best.pth", exp / "checkpoint.pth")
    meta = read_yaml(released / "meta.yaml")
    meta["files"]["asr_model_file"] = str((exp / "checkpoint.pth").relative_to(released))
    write_yaml(released / "meta.yaml", meta)
    if form != "meta.yaml":
        (released / "meta.yaml").unlink()
    source = {"folder": exp, "file": exp / "checkpoint.pth", "meta.yaml": released}[form]
    with pytest.raises(CheckpointError, match="checkpoint.pth: an ESPnet training state.*valid"):
        archive.locate(source)


def test_a_model_file_without_a_configuration_is_refused(released):
    (exp_of(released) / "config.yaml").unlink()
    with pytest.raises(CheckpointError, match="no config.yaml beside it"):
        archive.locate(exp_of(released) / "valid.acc.ave_10best.pth")
    with pytest.raises(CheckpointError, match="asr_train_config: .* does not exist; fetch or unpack"):
        archive.locate(released)


@pytest.mark.parametrize("name", ["/etc/config.yaml", "../config.yaml", "a\0b"])
def test_a_path_outside_the_archive_in_meta_yaml_is_refused(released, name):
    meta = read_yaml(released / "meta.yaml")
    meta["yaml_files"]["asr_train_config"] = name
    write_yaml(released / "meta.yaml", meta)
    with pytest.raises(CheckpointError, match="a path outside the archive"):
        archive.locate(released)


@pytest.mark.parametrize(
    "content", [{}, {"yaml_files": [], "files": {}}, {"yaml_files": {"a": 1}, "files": {}}]
)
def test_a_meta_yaml_without_files_is_refused(released, content):
    write_yaml(released / "meta.yaml", content)
    with pytest.raises(CheckpointError, match="meta.yaml: (yaml_files: expected names of files)"):
        archive.locate(released)


def test_an_archive_of_another_task_is_refused(released):
    write_yaml(released / "meta.yaml", {"yaml_files": {"tts_train_config": "a"}, "files": {}})
    with pytest.raises(CheckpointError, match="names no recogniser .*, only tts_train_config"):
        archive.locate(released)


@pytest.mark.parametrize("name", ["a" * 300, "a" * 300 + ".pth", "a\0b"])
def test_a_name_that_no_file_has_is_refused(name):
    with pytest.raises(CheckpointError, match="not a base model: not a valid path"):
        checkpoint.load(Path(name))


def test_an_experiment_in_place_of_its_base_model_names_no_option_of_a_command(exp):
    with pytest.raises(CheckpointError, match=f"{exp}: an exp.*base.dir in {exp}/config.yaml") as refused:
        checkpoint.load(exp)
    assert "--" not in str(refused.value).replace(str(exp), "")


def test_a_strange_meta_yaml_above_a_model_is_not_one_of_its_files(released):
    (released / "meta.yaml").write_text("package: {name: other}")
    assert archive.locate(exp_of(released)).root == released


def test_a_tar_archive_is_to_be_unpacked(tmp_path):
    (tmp_path / "model.tar.gz").touch()
    with pytest.raises(CheckpointError, match="unpack it .*'tar xf'.* and give its folder"):
        archive.locate(tmp_path / "model.tar.gz")


def test_what_is_a_base_model(new_archive, base_dir, released, tmp_path):
    root = new_archive(NAME)
    zipped = zip_folder(root, tmp_path / "model.zip")
    models = [root, exp_of(root), exp_of(root) / "valid.acc.ave.pth", zipped, base_dir]
    assert all(archive.is_base(path) for path in models)
    (tmp_path / "exp.yaml").touch()
    others = [tmp_path, tmp_path / "exp.yaml", tmp_path / "nowhere", root / "data"]
    assert not any(archive.is_base(path) for path in others)


def test_a_zip_leaves_nothing_behind(new_archive, tmp_path, monkeypatch):
    path = zip_folder(new_archive(NAME), tmp_path / "model.zip")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    with archive.opened(path) as files:
        assert files.lm_model.stat().st_size > 0
    base = checkpoint.load(path)
    assert base.files.lm_model.is_relative_to(path)
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize(
    ("entry", "content", "expected"),
    [
        ("../outside.yaml", b"", "paths that lead outside: ../outside.yaml"),
        ("/etc/outside.yaml", b"", "paths that lead outside: /etc/outside.yaml"),
        ("..\\outside.yaml", b"", "paths that lead outside"),
        ("zeros.pth", bytes(8 << 20), "extract to more than 100 times their size: zeros.pth"),
        ("meta.yaml", b"a: b", "two files of the same name"),
        ("./meta.yaml", b"a: b", "two files of the same name"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_unsafe_zip_is_refused_and_nothing_is_written(new_archive, tmp_path, entry, content, expected):
    path = zip_folder(new_archive(NAME), tmp_path / "inner/model.zip".replace("inner/", ""))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as changed:
        changed.writestr(entry, content)
    with pytest.raises(CheckpointError, match=f"model.zip: has .*{expected}".replace("\\", ".")):
        checkpoint.load(path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.zip"]


def test_a_link_in_a_zip_is_refused(new_archive, tmp_path):
    path = zip_folder(new_archive(NAME), tmp_path / "model.zip")
    link = zipfile.ZipInfo("link.yaml")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as changed:
        changed.writestr(link, "/etc/passwd")
    with pytest.raises(CheckpointError, match="model.zip: has links: link.yaml"):
        checkpoint.load(path)


@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_a_truncated_zip_is_refused(new_archive, tmp_path, part):
    path = zip_folder(new_archive(NAME), tmp_path / "model.zip")
    os.truncate(path, int(part * path.stat().st_size))
    with pytest.raises(CheckpointError, match="model.zip: not a complete zip: .*; fetch or copy it again"):
        checkpoint.load(path)


def test_a_changed_byte_in_a_zip_is_refused(new_archive, tmp_path):
    path = zip_folder(new_archive(NAME), tmp_path / "model.zip")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="model.zip: not a complete zip"):
        checkpoint.load(path)


def test_errors_in_a_zip_name_the_zip(released, tmp_path):
    (exp_of(released) / "config.yaml").write_text("a: b")
    path = zip_folder(released, tmp_path / "model.zip")
    with pytest.raises(
        CheckpointError, match=r"model.zip/exp/asr_train_.*config.yaml: has no list 'token_list'"
    ):
        checkpoint.load(path)
