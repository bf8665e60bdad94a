"""The five commands of docs/released.md, on an archive and speech of the sizes of tests."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from adaptkit.kaldi import datadir
from adaptkit.kaldi.datadir import DataDir, Utterance

PAGE = Path(__file__).parents[2] / "docs/released.md"
TEXTS = ("AN OLD MODEL", "THE NEW SPEAKER", "ONE TWO", "QUICK JAZZ")

pytestmark = pytest.mark.slow


def write_set(folder, number):
    """Write a data directory with `number` utterances of a second of noise by each of two speakers."""
    generator, utterances, recordings = np.random.default_rng(number), [], {}
    folder.mkdir(parents=True)
    for speaker in ("anna", "bert"):
        for index in range(number):
            utt_id = f"{speaker}-{index}"
            recordings[utt_id] = str(folder / f"{utt_id}.wav")
            soundfile.write(recordings[utt_id], 0.1 * generator.normal(size=16000), 16000)
            utterances.append(Utterance(utt_id, speaker, utt_id, TEXTS[index % len(TEXTS)]))
    datadir.write(DataDir(folder, tuple(utterances), recordings))


def test_a_released_model_is_adapted_in_five_commands(new_archive, adaptkit, tmp_path, monkeypatch):
    assert adaptkit("init", str(tmp_path / "mine"), "--corpus", "template").exit_code == 0
    monkeypatch.chdir(tmp_path / "mine")
    shutil.make_archive("asr_model", "zip", new_archive("librispeech_conformer"))
    for name, number in {"train": 4, "valid": 1, "test": 2}.items():
        write_set(Path("data", name).absolute(), number)

    commands = re.search(r"five commands.*?```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)[1].splitlines()
    assert len(commands) == 5
    for command in commands:
        done = adaptkit(*shlex.split(command)[1:])
        assert done.exit_code == 0, f"{command}\n{done.stderr}"
    assert Path("exp/residual/decode_test/score.json").is_file()
