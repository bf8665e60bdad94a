"""Find errors that vanish in another normal form, such as those of case, which are not the recogniser's."""

import logging
from collections.abc import Mapping

from adaptkit.characters import FORMS, normalise, split_words
from adaptkit.scoring.counts import count_words
from adaptkit.scoring.wer import ScoreReport

_LOG = logging.getLogger(__name__)


def count_vanishing(report: ScoreReport, refs: Mapping[str, str], hyps: Mapping[str, str]) -> dict[str, int]:
    """Count the word errors of a report that vanish with each further normal form, by its name."""
    wrong = [u.utt_id for u in report.utterances if u.words.errors]
    num_errors = report.total.errors
    found = {}
    for form in FORMS.keys() - {*report.normalize}:
        forms = (*report.normalize, form)
        texts = (
            [" ".join(split_words(normalise(side[utt_id], forms))) for utt_id in wrong]
            for side in (refs, hyps)
        )
        found[form] = num_errors - sum(counts.errors for counts in count_words(*texts)) if wrong else 0
    return {form: found[form] for form in FORMS if found.get(form, 0) > 0}


def warn_of_vanishing(
    report: ScoreReport, refs: Mapping[str, str], hyps: Mapping[str, str], *, where: str
) -> None:
    """Log how many errors vanish with each further normal form, if any; `where` names the hypotheses."""
    for form, count in count_vanishing(report, refs, hyps).items():
        message = "%s: %d of %d word errors vanish with --normalize %s"
        _LOG.warning(message, where, count, report.total.errors, form)
