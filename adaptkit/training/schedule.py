"""The learning rate of every optimizer step."""

import math

_MOST_WARMUP = 50  # steps, unless the options say how many


def choose_warmup(warmup_steps: int | None, num_steps: int) -> int:
    """Return the number of warm-up steps: as the options say, or a tenth of all steps, at most 50."""
    return min(num_steps // 10, _MOST_WARMUP) if warmup_steps is None else warmup_steps


def learning_rate(step: int, num_steps: int, *, peak: float, warmup_steps: int, schedule: str) -> float:
    """Return the learning rate of a step, counted from 0: linear warmup, then the schedule's decay.

    >>> [learning_rate(s, 6, peak=1.0, warmup_steps=2, schedule="linear") for s in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if schedule == "inverse_sqrt":
        return peak * math.sqrt(max(1, warmup_steps) / (step + 1))
    if schedule == "constant":
        return peak
    left = max(0.0, 1 - (step - warmup_steps) / max(1, num_steps - warmup_steps))
    return peak * (left if schedule == "linear" else 0.5 - 0.5 * math.cos(math.pi * left))


def explain_longer(schedule: str, warmup_steps: int | None) -> str:
    """Explain what more epochs than a run was started with mean for its learning rate."""
    if schedule in ("linear", "cosine"):
        return (
            f"the {schedule} schedule decays over the whole run: the learning rate continues as in a run of "
            "that length, in which the steps already taken would have had higher rates"
        )
    if warmup_steps is None:
        return (
            f"warm-up takes a tenth of all steps, at most {_MOST_WARMUP}: the learning rate continues as in "
            "a run of that length, whose warm-up may be longer than this one was"
        )
    return "the learning rate does not depend on the length, so the result is that of the longer run"
