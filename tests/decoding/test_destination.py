"""Where hypotheses go, and what is recorded of the model beside them."""

import shutil
from dataclasses import replace

import pytest

from adaptkit.base import checkpoint as base_checkpoint
from adaptkit.decoding.run import DecodeOptions, decode_folder
from adaptkit.errors import ConfigError, ScoringError
from adaptkit.files import checksum
from adaptkit.records import DecodeRecord, RunRecord
from adaptkit.report import runs
from adaptkit.scoring import files as score_files
from adaptkit.submodels import export as folders
from tests.fixtures.models import SPEAKERS


@pytest.fixture
def data(corpus):
    """The validation set with features."""
    return corpus / "dump/valid"


@pytest.fixture
def run(exp, data):
    """Decode into a folder; keywords replace options."""
    return lambda **changes: decode_folder(replace(DecodeOptions(exp, data), **changes), device="cpu")


@pytest.fixture
def submodels(base, new_exp, tmp_path):
    """Export a small experiment into a folder of Submodels."""

    def make(name="submodels", **options):
        exp = new_exp(f"of_{name}", **options)
        folders.export(exp / "adapter.safetensors", base, tmp_path / name)
        return tmp_path / name

    return make


def report(*decoded, data):
    """Score hypotheses, and read them as a report does."""
    for folder in decoded:
        score_files.write(score_files.score_files(data, folder), folder)
    return runs.load([folder.parent for folder in decoded], decoded[0].name.removeprefix("decode_"))


def facts(folder):
    record = RunRecord.read(folder / "run.json")
    return record.name, record.kind, record.params_trainable, record.tasks


def test_the_folder_of_all_sets_is_no_folder_of_one(run, exp):
    none = run(base_only=True).parent
    before = (none / "run.json").read_bytes()
    with pytest.raises(ConfigError, match="none: holds decode_valid; name another folder, such as"):
        run(base_only=True, out=none)
    shutil.rmtree(none / "decode_valid")
    with pytest.raises(ConfigError, match=r"none: holds the run.json of an experiment; name another folder"):
        run(base_only=True, out=none)
    assert (none / "run.json").read_bytes() == before


def test_a_folder_of_submodels_is_no_folder_of_hypotheses(run, submodels):
    folder = submodels()
    with pytest.raises(ConfigError, match=r"submodels: holds \+shared.safetensors; name another folder"):
        run(submodels=folder, out=folder)


def test_results_of_one_model_do_not_go_into_the_folder_of_another(run, exp, base_dir, submodels, tmp_path):
    folder = submodels()
    for out, changes in (
        (exp, {"base_only": True}),
        (exp, {"submodels": folder}),
        (folder, {}),
        (base_dir, {}),
    ):
        with pytest.raises(ConfigError, match=f"--out {out}/decode_x: {out} holds .* of another model"):
            run(**changes, out=out / "decode_x")
        assert not (out / "decode_x").exists()
    with pytest.raises(ConfigError, match="folder called 'none' are those of the base model alone"):
        run(out=tmp_path / "none/decode_x")


def test_every_model_decoded_elsewhere_has_a_record_that_a_report_reads(run, exp, data, submodels, tmp_path):
    one = run(out=tmp_path / "one/decode_valid")
    base = run(base_only=True, out=tmp_path / "baseline/decode_valid")
    own = run(submodels=submodels(bottleneck=4), out=tmp_path / "own/decode_valid")
    routed = run(exp=exp, route=replace(DecodeOptions(exp, data).route, method="likelihood"))
    per_task = 2 * (2 * 16 * 4 + 4 + 16)
    assert facts(tmp_path / "own") == ("own", "residual", 3 * per_task, list(SPEAKERS))
    assert facts(tmp_path / "baseline") == ("baseline", "none", 0, [])
    assert facts(tmp_path / "one")[1:] == (*facts(tmp_path / "one")[1:3], list(SPEAKERS))
    assert [result.name for result in report(base, one, own, data=data).results] == ["baseline", "one", "own"]
    assert routed.parent == exp
    assert not (exp / "run.json").exists()  # which training writes


def test_the_record_is_that_of_the_model_that_decoded_last(run, submodels, tmp_path):
    out = tmp_path / "own/decode_valid"
    run(submodels=submodels(bottleneck=4), out=out)
    small = facts(tmp_path / "own")
    other = submodels("others", bottleneck=8)
    run(submodels=other, out=out)
    assert facts(tmp_path / "own")[2] > small[2]

    shutil.copytree(out, tmp_path / "own/decode_test")
    run(submodels=other, out=out)
    before = (out / "text").read_bytes(), facts(tmp_path / "own")
    with pytest.raises(ConfigError, match=r"has results of another model \(residual, .*\) on test; name"):
        run(submodels=tmp_path / "submodels", out=out)
    assert ((out / "text").read_bytes(), facts(tmp_path / "own")) == before


def test_submodels_named_by_another_path_still_get_their_record(run, submodels, tmp_path, monkeypatch):
    folder = submodels()
    run(submodels=folder)
    (folder / "spk2.safetensors").unlink()
    monkeypatch.chdir(tmp_path)
    run(submodels=folder, out=folder.relative_to(tmp_path) / "decode_valid", unknown_speaker="base")
    assert facts(folder)[3] == ["spk1", "spk10"]


def test_weights_that_changed_since_are_noticed(run, exp, data, base, submodels, tmp_path):
    folder = submodels()
    own, one = run(submodels=folder), run(out=tmp_path / "one/decode_valid")
    names = sorted(DecodeRecord.read(own / "run.json").weights)
    assert names == [f"../{name}.safetensors" for name in ("+shared", "spk1", "spk10", "spk2")]
    assert DecodeRecord.read(one / "run.json").weights == {
        "../../exp/tiny/adapter.safetensors": checksum(exp / "adapter.safetensors")
    }
    report(own, data=data), report(one, data=data)

    for path, decoded in ((folder / "spk1.safetensors", own), (exp / "adapter.safetensors", one)):
        kept = path.read_bytes()
        path.write_bytes(kept + b" ")
        with pytest.raises(ScoringError, match=f"not decoded with {path} as it is now; run 'adaptkit"):
            report(decoded, data=data)
        path.write_bytes(kept)
        report(decoded, data=data)


def test_a_base_model_replaced_in_its_folder_is_noticed(run, base, new_base, data, tmp_path):
    where = tmp_path / "base"
    base_checkpoint.save(where, base.config, base.model.state_dict())
    out = run(exp=where, out=tmp_path / "none/decode_valid")
    report(out, data=data)
    (where / "run.json").write_text((out.parent / "run.json").read_text().replace(base.fingerprint, "abcd"))
    with pytest.raises(ScoringError, match="not decoded with base model abcd; run 'adaptkit decode'"):
        report(out, data=data)
