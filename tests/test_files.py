import errno
import os
import resource
import signal
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

import pytest

from adaptkit.errors import AdaptkitError
from adaptkit.files import (
    checksum,
    explain_os_error,
    held_in_memory,
    is_disk_full,
    read_text,
    remove,
    replacing,
    require_regular,
    write_text,
)


def run(program, **options):
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], text=True, **options)


def write_half(path, interruption):
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise interruption


def test_text_is_read_back_as_written(tmp_path):
    write_text(tmp_path / "new" / "a.txt", "é\n")
    assert read_text(tmp_path / "new" / "a.txt") == "é\n"


def test_temporary_file_keeps_the_suffix_and_leaves_nothing_behind(tmp_path):
    with replacing(tmp_path / "a.npz") as temporary:
        assert (temporary.parent, temporary.suffix) == (tmp_path, ".npz")
        temporary.write_bytes(b"new")
    assert os.listdir(tmp_path) == ["a.npz"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_block_that_raises_leaves_the_old_file(tmp_path, interruption):
    write_text(tmp_path / "a", "old")
    with pytest.raises(interruption):
        write_half(tmp_path / "a", interruption)
    assert (read_text(tmp_path / "a"), os.listdir(tmp_path)) == ("old", ["a"])


def test_process_killed_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    write_text(path, "old")
    writer = run(
        f"""
        import sys
        from adaptkit.files import replacing
        with replacing({str(path)!r}) as temporary, open(temporary, "w") as file:
            file.write("half of it")
            file.flush()
            print("written", flush=True)
            sys.stdin.read()
        """,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert writer.stdout.readline() == "written\n"
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    assert read_text(path) == "old"


def test_write_beyond_the_room_there_is_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    write_text(path, "old")
    writer = run(
        f"""
        from adaptkit.errors import AdaptkitError
        from adaptkit.files import write_text
        try:
            write_text({str(path)!r}, "x" * 5000)
        except AdaptkitError as error:
            print(error)
        """,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )
    message, _ = writer.communicate()
    assert message.startswith(f"{path}: file size limit exceeded, nothing was written")
    assert (read_text(path), os.listdir(tmp_path)) == ("old", ["a"])


def test_content_is_held_in_memory_as_a_whole_or_not_at_all():
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with held_in_memory(b"x" * 1000) as location:
            assert os.path.getsize(location) == 1000
        with pytest.raises(OSError, match="too large") as error, held_in_memory(b"x" * 1001):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert is_disk_full(error.value)


def test_full_disk_is_named_with_its_remedy(tmp_path):
    (tmp_path / f".a.{os.getpid()}.partial").symlink_to("/dev/full")
    with pytest.raises(AdaptkitError, match="a: the disk is full, nothing was written; free some space"):
        write_text(tmp_path / "a", "x")
    assert os.listdir(tmp_path) == []


def test_file_where_a_folder_is_needed_is_named(tmp_path):
    write_text(tmp_path / "a", "")
    with pytest.raises(AdaptkitError, match="a/b"):
        write_text(tmp_path / "a" / "b", "x")


def test_name_too_long_is_named(tmp_path):
    with pytest.raises(AdaptkitError, match="too long"):
        write_text(tmp_path / ("x" * 250), "x")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(AdaptkitError, match="none: no such file or folder"):
        read_text(tmp_path / "none")


def test_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "a").write_bytes(b"ab\xff")
    with pytest.raises(AdaptkitError, match=r"a: not UTF-8 text \(byte 2\)"):
        read_text(tmp_path / "a")


def test_unforeseen_error_is_said_in_the_systems_words():
    assert explain_os_error(OSError(errno.EIO, "Input/output error"), "a") == "a: Input/output error"


def test_checksum_is_that_of_the_whole_content(tmp_path):
    (tmp_path / "a").write_bytes(bytes(3_000_000))
    assert checksum(tmp_path / "a") == zlib.crc32(bytes(3_000_000))


def test_fifo_folder_and_device_are_refused_without_opening_them(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path, what in ((tmp_path / "fifo", "a FIFO"), (tmp_path, "a folder"), ("/dev/null", "a device")):
        with pytest.raises(AdaptkitError, match=f"{path}: is {what}, not a regular file"):
            require_regular(path)


def test_missing_file_and_name_that_is_no_path_are_refused(tmp_path):
    with pytest.raises(AdaptkitError, match="no such file"):
        require_regular(tmp_path / "none")
    with pytest.raises(AdaptkitError, match="not a path"):
        require_regular("a\0b")


def test_regular_file_and_link_to_one_pass(tmp_path):
    write_text(tmp_path / "a", "a")
    (tmp_path / "link").symlink_to("a")
    require_regular(tmp_path / "a")
    require_regular(tmp_path / "link")


def test_removing_what_is_no_file_is_an_error_that_names_it(tmp_path):
    (tmp_path / "link").symlink_to("link")
    remove(tmp_path / "link")
    remove(tmp_path / "link")
    assert os.listdir(tmp_path) == []
    with pytest.raises(AdaptkitError, match=f"{tmp_path}: is a folder, where a file belongs; move it away"):
        remove(tmp_path)


@pytest.mark.parametrize("name", [".", "..", "/", "a/.."])
def test_a_file_without_a_name_is_refused(name):
    with pytest.raises(AdaptkitError, match="is a folder, where a file belongs; name a file in it"):
        write_text(Path(name), "text")
