"""Read the training half of speechocean762, English sentences read by native speakers of Mandarin.

Expected below CORPUS: the corpus as distributed, with `train/` (Kaldi tables) and `WAVE/SPEAKER<spk>/`; or
the same tables at the top, beside `audio/<id>` in any format that adaptkit reads.

Zhang et al., speechocean762: an open-source non-native English speech corpus for pronunciation assessment,
Interspeech 2021, arXiv:2104.01378.
"""

from pathlib import Path

from adaptkit.errors import DataError, counted, listed
from adaptkit.kaldi.datadir import DataDir, Utterance
from adaptkit.kaldi.tables import read_table

EXPECTED = "CORPUS should be the folder of speechocean762 that contains WAVE/ and train/"
CHILD, TEENAGER = 12, 17  # highest age in years


def read_corpus(corpus: Path) -> DataDir:
    """Read every utterance; its id begins with the speaker, and its group is child, teenager or adult."""
    tables = corpus / "train" if (corpus / "train").is_dir() else corpus
    missing = [n for n in ("text", "utt2spk", "spk2age", "wav.scp") if not (tables / n).is_file()]
    if missing:
        raise DataError(f"{tables}: no {listed(missing)}; {EXPECTED}")
    text, speakers, ages, scp = (
        read_table(tables / name) for name in ("text", "utt2spk", "spk2age", "wav.scp")
    )
    beside = {path.stem: path for path in (corpus / "audio").glob("*")}
    found = {file_id: find_audio(corpus / scp[file_id], beside.get(file_id)) for file_id in text}
    lost = [file_id for file_id, path in found.items() if path is None]
    if lost:
        number = counted(len(lost), "utterance")
        raise DataError(f"{corpus}: no audio of {number}: {listed(lost, most=3)}; {EXPECTED}")
    recordings, utterances = {}, []
    for file_id, path in found.items():
        speaker = speakers[file_id]
        utt_id = f"{speaker}-{file_id}"
        recordings[utt_id] = str(path)
        words = " ".join(text[file_id].upper().split())
        utterances.append(Utterance(utt_id, speaker, utt_id, words, group=find_group(int(ages[speaker]))))
    return DataDir(corpus, tuple(sorted(utterances, key=lambda u: u.utt_id.encode())), recordings)


def find_audio(*places: Path | None) -> Path | None:
    """Return the first of some places that is a file."""
    return next((place.resolve() for place in places if place is not None and place.is_file()), None)


def find_group(age: int) -> str:
    """Return the group of a speaker by age in years.

    >>> find_group(12), find_group(15), find_group(20)
    ('child', 'teenager', 'adult')
    """
    return "child" if age <= CHILD else "teenager" if age <= TEENAGER else "adult"
