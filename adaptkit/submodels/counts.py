"""What a cache of Submodels counts."""

from dataclasses import dataclass


@dataclass
class Counts:
    """What a cache has done so far."""

    hits: int = 0
    misses: int = 0
    waits: int = 0
    loads: int = 0
    failures: int = 0
    load_seconds: float = 0.0
    load_seconds_max: float = 0.0


@dataclass(frozen=True)
class CacheStats:
    """What a cache holds now, and what it has done since it was made."""

    num_slots: int
    num_known: int
    num_resident: int  # with those on their way
    num_pinned: int
    resident_bytes: int
    hits: int  # asked for and in a slot, or already on its way there
    misses: int
    waits: int  # times that somebody waited for slots that others held
    evictions: int
    loads: int
    failures: int  # loads that ended in an error
    load_seconds: float  # of all loads, from disk into the slot
    load_seconds_max: float
