"""Recipe folders that `adaptkit init` lays out."""

from pathlib import Path

import pytest

from adaptkit.corpora import layout
from adaptkit.errors import DataError

ROOT = Path(__file__).parents[2]


def test_every_corpus_can_be_laid_out():
    assert layout.names() == sorted(path.name for path in (ROOT / "egs").iterdir())


@pytest.mark.parametrize("corpus", layout.names())
def test_a_recipe_folder_holds_what_its_scripts_call(corpus, tmp_path):
    layout.lay_out(tmp_path / "new/recipe", corpus)

    files = {str(path.relative_to(tmp_path / "new/recipe")) for path in tmp_path.rglob("*") if path.is_file()}
    assert {"run.sh", "local/prepare.py", "recipes/adapt.sh", "recipes/lib.sh"} <= files
    own = {str(path.relative_to(ROOT / "egs" / corpus)) for path in (ROOT / "egs" / corpus).glob("*.sh")}
    assert own <= files
    assert all(path.stat().st_mode & 0o111 for path in tmp_path.rglob("*.sh"))
    assert not [name for name in files if name.startswith(("data", "dump", "exp"))]


def test_an_empty_folder_may_be_there(tmp_path):
    layout.lay_out(tmp_path, "mini")
    assert (tmp_path / "run.sh").exists()


def test_a_folder_that_a_killed_run_left_is_completed(tmp_path):
    layout.lay_out(tmp_path, "mini")
    before = {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    (tmp_path / "run.sh").unlink()
    (tmp_path / "local/.prepare.17.partial.py").touch()
    layout.lay_out(tmp_path, "mini")
    assert {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_changed_file_is_kept(tmp_path):
    layout.lay_out(tmp_path, "mini")
    (tmp_path / "run.sh").write_text("mine")
    with pytest.raises(DataError, match="not empty, contains run.sh; .* new folder"):
        layout.lay_out(tmp_path, "mini")


def test_a_folder_in_use_is_refused_and_stays_as_it_is(tmp_path):
    for name in "dcba":
        (tmp_path / name).touch()
    with pytest.raises(DataError, match="not empty.* a, b, c and 1 more; .* new folder"):
        layout.lay_out(tmp_path, "mini")
    assert len(list(tmp_path.iterdir())) == 4


def test_a_file_in_its_place_is_refused(tmp_path):
    (tmp_path / "recipe").touch()
    with pytest.raises(DataError, match="recipe: .*a file; .* new folder"):
        layout.lay_out(tmp_path / "recipe", "mini")


def test_an_unknown_corpus_is_refused_with_the_nearest_name(tmp_path):
    with pytest.raises(DataError, match="no such corpus; did you mean 'voices'"):
        layout.lay_out(tmp_path / "recipe", "voice")
    assert not list(tmp_path.iterdir())


def test_the_command_refuses_an_unknown_corpus_with_the_list(adaptkit, tmp_path):
    done = adaptkit("init", tmp_path / "recipe", "--corpus", "min")
    assert done.exit_code == 2
    assert all(name in done.stderr for name in layout.names())


def test_the_command_prints_the_folder(adaptkit, tmp_path):
    assert adaptkit("init", tmp_path / "recipe").stdout == f"{tmp_path / 'recipe'}\n"
