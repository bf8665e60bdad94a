"""How commands end."""

import os
from pathlib import Path

import pytest

from adaptkit.cli import script
from adaptkit.files import write_text


def test_a_name_that_is_not_utf_8_is_named(tmp_path, capsys):
    folder = os.fsdecode(b"caf\xe9")
    with pytest.raises(SystemExit, match="1"):
        script.run(lambda: write_text(tmp_path / "run.json", f'{{"data": "{folder}"}}'), "adaptkit")
    assert capsys.readouterr().err == (
        "adaptkit: 'caf\\udce9': a name that is not UTF-8; rename the file or folder\n"
    )
    assert list(Path(tmp_path).iterdir()) == []


def test_a_terminal_without_a_character_is_another_error():
    with pytest.raises(UnicodeEncodeError):
        script.run(lambda: "é".encode("ascii"), "adaptkit")
