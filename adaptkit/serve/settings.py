"""What a server is told to do, and the limits it keeps."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Limits:
    """What one request, one batch and all that wait may take."""

    max_batch: int  # rows
    batch_frames: int  # feature frames of a batch, with padding
    max_body_mb: float
    max_seconds: float  # of audio
    max_queue: int  # requests under way at once, from their arrival to their answer
    timeout_sec: float  # from the arrival of a request to its answer

    @property
    def max_body_bytes(self) -> int:
        """The longest body in bytes."""
        return round(self.max_body_mb * 1e6)


@dataclass(frozen=True)
class Settings:
    """Where models lie, where the server listens, and how it treats speakers and requests."""

    base: Path
    submodels: Path
    host: str
    port: int  # 0: any that is free
    submodel_mb: float  # of memory for resident Submodels
    unknown_speaker: str  # 404, or base
    limits: Limits
    refresh_sec: float  # between looks at the folder of Submodels
    num_workers: int = 1  # processes, each with all of this
    preload: tuple[str, ...] = ()  # speakers whose Submodels are loaded at the start and stay
