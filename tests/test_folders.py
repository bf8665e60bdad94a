"""The names of the files of runs and decodings."""

from pathlib import Path

from adaptkit.folders import DecodeFolder, RunFolder


def test_decoded_sets_are_the_folders_of_hypotheses_in_order(tmp_path):
    for name in ("decode_test", "decode_dev", "log"):
        (tmp_path / name).mkdir()
    (tmp_path / "decode_all").write_text("a file")
    assert RunFolder(tmp_path).decoded_sets() == ["dev", "test"]


def test_hypotheses_lie_in_the_folder_of_what_decoded():
    exp = RunFolder(Path("exp/residual"))
    assert DecodeFolder(exp.decoded("test")).run == exp
    assert DecodeFolder(exp.decoded("test")).record != exp.record


def test_no_two_files_of_a_run_have_one_name():
    exp = RunFolder(Path("exp/residual"))
    names = [n for n, v in vars(RunFolder).items() if isinstance(v, property) and not n.startswith("is_")]
    assert len({getattr(exp, name) for name in names}) == len(names) > 5
