import os
import random
import subprocess

import pytest

from adaptkit.errors import AdaptkitError, DataError
from adaptkit.files import split_lines
from adaptkit.kaldi.fix import fix
from adaptkit.kaldi.scan import scan_table
from adaptkit.kaldi.tables import read_columns, read_table, split_line, write_table


def test_table_is_read_back_as_written(tmp_path):
    table = {"b": "two words", "a": "", "é": "x"}
    write_table(tmp_path / "text", table)
    assert read_table(tmp_path / "text") == table


def test_written_order_is_that_of_sort_in_c_locale(tmp_path):
    write_table(tmp_path / "t", dict.fromkeys(["b", "B", "a-10", "a-1", "a_1", "a", "é", "Z"], "x"))
    done = subprocess.run(["sort", "-c", "-u", "-k1,1", tmp_path / "t"], env={"LC_ALL": "C"}, check=False)
    assert done.returncode == 0


def test_separators_inside_a_text_are_spaces_and_do_not_split_it(tmp_path):
    (tmp_path / "text").write_text("a one\u2028two\x0bthree\u3000four\tfive\nb\tsix  seven \n")
    assert read_table(tmp_path / "text") == {"a": "one two three four five", "b": "six  seven"}


def test_carriage_return_inside_a_line_is_a_space_and_does_not_split_it(tmp_path):
    (tmp_path / "text").write_bytes(b"a one\rtwo\nb three\n")
    assert read_table(tmp_path / "text") == {"a": "one two", "b": "three"}


def test_invisible_characters_are_no_part_of_keys_and_values(tmp_path):
    (tmp_path / "text").write_text("\ufeffa\u200b one\ufeff\nb\u3000\u200btwo\n")
    assert read_table(tmp_path / "text") == {"a": "one", "b": "two"}


def test_locations_stay_as_they_are(tmp_path):
    (tmp_path / "wav.scp").write_text("\ufeffa\t/my\u00a0files/\u200bone.wav \nb cat  x |\n")
    assert read_table(tmp_path / "wav.scp") == {"a": "/my\u00a0files/\u200bone.wav", "b": "cat  x |"}


def test_windows_line_ends_are_no_part_of_values(tmp_path):
    (tmp_path / "text").write_bytes(b"a one\r\nb two\r\n")
    assert read_table(tmp_path / "text") == {"a": "one", "b": "two"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a 1\n\nb 2\n", ":2: empty line"),
        (b"a 1\na 2\n", ":2: duplicate key a"),
        (b"a 1\nb \0\n", ":2: not text, it contains a NUL character"),
        (b"a 1\na\xe2\x80\x8b 2\n", ":2: dup"),
    ],
)
def test_line_that_cannot_stand_is_named(tmp_path, content, message):
    (tmp_path / "text").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / "text")


UNUSABLE_LINES = {
    b"anna-1 X\n": "duplicate key anna-1; remove this line or the earlier one",
    b"\n": "empty line; remove the line",
    b"eve-1 \0\n": "not text, it contains a NUL character; remove the character",
}


@pytest.mark.parametrize("line", UNUSABLE_LINES)
def test_repair_of_a_data_directory_is_suggested_where_it_helps(folder, line):
    text = folder.path / "text"
    text.write_bytes(text.read_bytes() + line)
    with pytest.raises(DataError, match=f":5: .*; 'adaptkit data fix {folder.path}' (keeps|drops) "):
        read_table(text)
    fix(folder.path)
    assert len(read_table(text)) == 4


@pytest.mark.parametrize("line", UNUSABLE_LINES)
@pytest.mark.parametrize("missing", ["wav.scp", "utt2spk", "text"])
def test_repair_by_hand_is_suggested_where_data_fix_would_not_help(folder, line, missing):
    (folder.path / missing).rename(folder.path / "hyp.txt")
    path = folder.path / ("hyp.txt" if missing == "text" else "text")
    path.write_bytes(path.read_bytes() + line)
    with pytest.raises(DataError) as refused:
        read_table(path)
    assert str(refused.value) == f"{path}:5: {UNUSABLE_LINES[line]}"


def test_table_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "text").write_bytes(b"a \xff\n")
    with pytest.raises(AdaptkitError, match="not UTF-8 text"):
        read_table(tmp_path / "text")


def test_fifo_is_refused_unless_the_shell_made_it(tmp_path):
    os.mkfifo(tmp_path / "text")
    with pytest.raises(AdaptkitError, match="is a FIFO"):
        read_table(tmp_path / "text")
    with pytest.raises(AdaptkitError, match="is a FIFO"):
        scan_table(tmp_path / "text")
    reader, writer = os.pipe()
    os.write(writer, b"a one\n")
    os.close(writer)
    assert read_table(f"/dev/fd/{reader}") == {"a": "one"}
    os.close(reader)


def test_empty_table_is_empty(tmp_path):
    (tmp_path / "text").write_bytes(b"")
    assert read_table(tmp_path / "text") == {}


CONTENTS = {
    "sorted": "a one\nb two words\nc\n",
    "unsorted": "c 1\na 2\nb 3\n",
    "not clean": "a  one \nb\u00a0two\u200b\nc\tthree\r\n\u00e4 \u65e5\u672c\n",
    "no last end": "a 1\nb 2\rx",
    "old Mac": "b 1\ra 2\r",
    "nothing": "",
}


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("size", [1, 9, 1 << 20])
def test_columns_hold_what_a_table_does_whatever_the_blocks(tmp_path, monkeypatch, name, size):
    file = tmp_path / "text"
    file.write_bytes(CONTENTS[name].encode())
    monkeypatch.setattr("adaptkit.files._BLOCK_BYTES", 1 << 20)
    expected = {key: value for key, value in read_table(file).items()}
    monkeypatch.setattr("adaptkit.files._BLOCK_BYTES", size)
    assert list(read_columns(file).items()) == sorted(expected.items())
    assert list(read_table(file).items()) == list(expected.items())


@pytest.mark.parametrize("read", [read_table, read_columns])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a 1\nc 1\nb 2\nc 3\n", "text:4: duplicate key c"),
        (b"a 1\nb 1\n\nc 3\n", "text:3: empty line"),
        (b"a 1\nb 1\nc \0\n", "text:3: not text, it contains a NUL"),
        (b"a 1\nb 1\nc \xff\n", r"not UTF-8 text \(byte 10\)"),
    ],
)
def test_fault_in_a_later_block_is_named_by_its_line(tmp_path, monkeypatch, read, content, message):
    monkeypatch.setattr("adaptkit.files._BLOCK_BYTES", 2)
    (tmp_path / "text").write_bytes(content)
    with pytest.raises(AdaptkitError, match=message):
        read(tmp_path / "text")


def test_random_texts_are_the_same_by_either_way(tmp_path):
    generator = random.Random(0)
    characters = "ab \u00e4\u200b\u3000\t\r"
    for number in range(100):
        rest = ("".join(generator.choices(characters, k=6)) for _ in range(4))
        text = "".join(f"{key}{part}\n" for key, part in zip("xk7A", rest, strict=True))
        (tmp_path / "text").write_bytes(text.encode())
        lines = [split_line(line) for line in split_lines(text)]
        if len(dict(lines)) == 4:
            assert dict(read_columns(tmp_path / "text")) == dict(lines) == read_table(tmp_path / "text"), (
                number
            )
