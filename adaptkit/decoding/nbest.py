"""N-best lists in ESPnet's layout: a folder for each rank, with tables by utterance."""

from collections.abc import Sequence

from adaptkit.folders import DecodeFolder
from adaptkit.kaldi.tables import write_table
from adaptkit.model.recognise import Hypothesis
from adaptkit.tokens import TokenList


def write_nbest(out: DecodeFolder, found: Sequence[Hypothesis], tokens: TokenList) -> None:
    """Write `nbest/<rank>best_recog/{text,score,token,token_int}`, as espnet2.bin.asr_inference does.

    The tables of rank n hold only the utterances with at least n hypotheses.
    """
    for rank in range(1, 1 + max((len(h.nbest) for h in found), default=0)):
        own = {h.utt_id: h.nbest[rank - 1] for h in found if len(h.nbest) >= rank}
        folder = out.ranked(rank)
        folder.mkdir(parents=True)
        write_table(folder / "text", {utt_id: tokens.decode(path.tokens) for utt_id, path in own.items()})
        write_table(folder / "score", {utt_id: f"{path.score:.4f}" for utt_id, path in own.items()})
        spelt = {utt_id: " ".join(tokens.tokens[i] for i in path.tokens) for utt_id, path in own.items()}
        write_table(folder / "token", spelt)
        ids = {utt_id: " ".join(map(str, path.tokens)) for utt_id, path in own.items()}
        write_table(folder / "token_int", ids)
