import numpy as np
import pytest
import soundfile

from adaptkit.errors import DataError
from adaptkit.kaldi import datadir
from adaptkit.kaldi.datadir import DataDir, Utterance


@pytest.fixture
def run(adaptkit):
    """Run a command of `adaptkit data`."""
    return lambda *words: adaptkit("data", *words)


@pytest.fixture
def data(tmp_path):
    """Two utterances of half a second each of anna and bert."""
    utterances, recordings = [], {}
    for utt_id in ("anna-1", "anna-2", "bert-1", "bert-2"):
        recordings[utt_id] = str(tmp_path / f"{utt_id}.wav")
        soundfile.write(recordings[utt_id], np.sin(np.arange(4000) / 5) / 9, 8000)
        utterances.append(Utterance(utt_id, utt_id[:4], utt_id, "TWO WORDS"))
    datadir.write(DataDir(tmp_path / "data", tuple(utterances), recordings))
    return tmp_path / "data"


def test_valid_directory_prints_nothing_and_succeeds(run, data):
    done = run("validate", data)
    assert (done.exit_code, done.stdout) == (0, "")


def test_each_problem_is_a_line_of_its_own_and_fails(run, data):
    (data / "text").write_text("anna-1 ONE\nanna-2\nbert-1 ONE\n")
    done = run("validate", data)
    assert done.exit_code == 1
    assert done.stdout == (
        f"{data}/text:2: anna-2: empty text; 'adaptkit data fix {data}' drops it\n"
        f"{data}/utt2spk:4: utterance bert-2 is not in text; 'adaptkit data fix {data}' drops it\n"
    )


def test_several_directories_are_all_reported(run, data, tmp_path):
    done = run("validate", tmp_path / "none", data, tmp_path / "nothing")
    assert [line.split(": ")[0] for line in done.stdout.splitlines()] == [
        str(tmp_path / "none"), str(tmp_path / "nothing")
    ]  # fmt: skip


def test_warning_is_printed_without_failing(run, data):
    (data / "utt2spk").write_text("anna-1 x\nanna-2 x\nbert-1 x\nbert-2 x\n")
    (data / "spk2utt").write_text("x anna-1 anna-2 bert-1 bert-2\n")
    done = run("validate", data)
    assert done.exit_code == 0
    assert "warning: the speaker is not a prefix of 4 utterance ids" in done.stdout


@pytest.mark.parametrize(("option", "value"), [("--max-sec", "0.4"), ("--min-sec", "0.6")])
def test_limits_are_options(run, data, option, value):
    assert run("validate", data, option, value).exit_code == 1


def test_tables_alone_can_be_checked(run, data, tmp_path):
    (tmp_path / "anna-1.wav").unlink()
    assert run("validate", data).exit_code == 1
    assert run("validate", data, "--no-audio").exit_code == 0


def test_texts_are_held_against_a_token_list(run, data, tmp_path):
    (tmp_path / "tokens.txt").write_text("<blank>\n<unk>\n<space>\nT\nW\nO\nR\nD\n<sos/eos>\n")
    done = run("validate", data, "--tokens", tmp_path / "tokens.txt")
    expected = (
        "text:1: 4 times: characters not among the tokens: anna-1 ('S'), anna-2 ('S'), bert-1 ('S') and"
    )
    assert done.stdout.startswith(f"{data}/{expected}")


def test_commands_run_only_when_allowed(run, data, tmp_path):
    table = (data / "wav.scp").read_text().replace("anna-1 ", f"anna-1 touch {tmp_path}/ran; cat ")
    (data / "wav.scp").write_text(table.replace("anna-1.wav", "anna-1.wav |"))
    assert run("validate", data).exit_code == 0
    assert not (tmp_path / "ran").exists()
    assert run("validate", data, "--allow-pipes").stdout == ""
    assert (tmp_path / "ran").exists()


def test_fix_says_what_it_dropped_and_why(run, data, tmp_path):
    (tmp_path / "anna-1.wav").write_bytes(b"")
    done = run("fix", data)
    assert done.stdout == (
        f"dropped anna-1: {data}/wav.scp:1: {tmp_path}/anna-1.wav: an empty file; fetch it again\n"
        f"{data}: kept 3 of 4 utterances, dropped 25.0 %\n"
    )
    assert run("validate", data).stdout == ""


def test_fix_of_a_hopeless_directory_is_an_error(run, data):
    (data / "utt2spk").unlink()
    done = run("fix", data)
    assert isinstance(done.error, DataError)
    assert "nothing was changed" in done.stderr


@pytest.mark.parametrize(
    ("option", "value", "utt_ids"),
    [
        ("--first", "3", ["anna-1", "anna-2", "bert-1"]),
        ("--per-spk", "1", ["anna-1", "bert-1"]),
        ("--utt-list", "bert-1 and the rest\n\nanna-2\n", ["anna-2", "bert-1"]),
        ("--spk-list", "bert\n", ["bert-1", "bert-2"]),
    ],
)
def test_subset_holds_the_chosen_utterances(run, data, tmp_path, option, value, utt_ids):
    (tmp_path / "list").write_text(value)
    done = run("subset", data, tmp_path / "part", option, tmp_path / "list" if "list" in option else value)
    assert done.exit_code == 0
    assert [u.utt_id for u in datadir.read(tmp_path / "part").utterances] == utt_ids


def test_random_subset_is_that_of_its_seed(run, data, tmp_path):
    for name, seed in (("a", 1), ("b", 1)):
        run("subset", data, tmp_path / name, "--random", 2, "--seed", seed)
    first, second = (datadir.read(tmp_path / name).utterances for name in "ab")
    assert first == second
    assert len(first) == 2


def test_a_seed_without_a_random_choice_is_refused(run, data, tmp_path):
    done = run("subset", data, tmp_path / "part", "--first", 2, "--seed", 1)
    assert (done.exit_code, "--seed has no effect with --first" in done.stderr) == (2, True)


@pytest.mark.parametrize("options", [[], ["--first", "1", "--per-spk", "1"]])
def test_subset_needs_exactly_one_way_of_choosing(run, data, tmp_path, options):
    done = run("subset", data, tmp_path / "part", *options)
    assert done.exit_code == 2
    assert "use one of --first, --random" in done.stderr


def test_combined_parts_are_the_whole(run, data, tmp_path):
    (tmp_path / "anna").write_text("anna")
    (tmp_path / "bert").write_text("bert")
    for name in ("bert", "anna"):
        run("subset", data, tmp_path / "parts" / name, "--spk-list", tmp_path / name)
    done = run("combine", tmp_path / "all", *(tmp_path / "parts").iterdir())
    assert done.stdout == f"{tmp_path}/all: 4 utterances of 2 speakers\n"
    assert (tmp_path / "all" / "text").read_text() == (data / "text").read_text()


def test_joined_utterances_fit_the_seconds_and_the_rate(run, data, tmp_path):
    done = run("join", data, tmp_path / "long", "--max-sec", 1, "--rate", 8000)
    assert done.stdout == f"{tmp_path}/long: 2 utterances of 2 speakers\n"
    assert [u.text for u in datadir.read(tmp_path / "long").utterances] == ["TWO WORDS TWO WORDS"] * 2
    assert run("validate", tmp_path / "long", "--min-sec", 1, "--max-sec", 1).stdout == ""
    assert run("info", tmp_path / "long").stdout.splitlines()[-2] == "recordings   2 at 8000 Hz"


def test_info_counts_the_directory(run, data):
    done = run("info", data)
    assert done.stdout.splitlines() == [
        "utterances   4",
        "speakers     2",
        "tasks        2",
        "groups       0",
        "words        8",
        "hours        0.00",
        "seconds      0.50 mean, 0.50 to 0.50",
        "recordings   4 at 8000 Hz",
        "feats        no",
    ]


def test_error_reaches_the_shell_as_one_message_and_exit_code_1(run_process, tmp_path):
    done = run_process("adaptkit", "data", "info", tmp_path / "none")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"adaptkit: {tmp_path}/none: no such data directory")


def test_a_split_over_its_source_writes_no_part(run, data, tmp_path):
    done = run("split", data, tmp_path / "one", data, "--speakers", "1")
    assert "use different folders for OUT, none of them DATA" in done.stderr
    assert not (tmp_path / "one").exists()
