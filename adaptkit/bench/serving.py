"""Time a server with one client and with many at once, every request for a different speaker."""

import http.client
import io
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from urllib.parse import urlencode

import soundfile
import torch

from adaptkit.adapters.api import AdapterConfig, AdapterStack
from adaptkit.base import checkpoint
from adaptkit.base.checkpoint import BaseModel
from adaptkit.bench.batch import make_batch
from adaptkit.bench.loading import percentile_99, write_submodels
from adaptkit.bench.submodels import Load, random_submodels
from adaptkit.errors import AdaptkitError, DataError
from adaptkit.features.fbank import FbankOptions, log_mel
from adaptkit.folders import RunFolder
from adaptkit.kaldi.audio import read_audio
from adaptkit.model.adapted import AdaptedModel
from adaptkit.model.recognise import Hypothesis

REQUESTS = 4  # per client and round, with many clients
START_SEC = 300  # time limit for a server to become ready
TURN_SEC = 0.15  # duration of a segment of noise or tone
TOLERANCE = 1e-4  # relative, of path scores
_HOST = "127.0.0.1"


@dataclass(frozen=True)
class Served:
    """Throughput, latency and errors of a server with some number of clients."""

    num_clients: int
    num_requests: int
    per_sec: float  # requests; median over rounds
    ratio: float  # to one client; median of the ratios of the rounds
    median_ms: float  # of a request
    p99_ms: float
    num_errors: int  # requests without a result
    num_wrong: int  # results that differ from decoding with the requested speaker's Submodel


@dataclass(frozen=True)
class Answer:
    """The response to a request."""

    speaker: str
    seconds: float
    status: int  # of HTTP; 0 if the connection failed
    found: Hypothesis


@dataclass(frozen=True)
class Round:
    """The responses to some clients that ran at the same time."""

    seconds: float
    answers: Sequence[Answer]

    @property
    def per_sec(self) -> float:
        """Requests per second."""
        return len(self.answers) / self.seconds


def time_serving(
    base: BaseModel,
    entry: AdapterConfig,
    load: Load,
    *,
    num_clients: int,
    num_rounds: int,
    num_workers: int = 1,
) -> list[Served]:
    """Send the same audio to `adaptkit serve` for every speaker: rounds of one client and of many alternate.

    Every response is compared with decoding the audio by itself with that speaker's Submodel. The clients are
    threads of this process and take a few per cent of a core.
    """
    speakers = [f"spk{k}" for k in range(load.num_speakers)]
    adapters = random_submodels(base, entry, speakers)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        body = make_audio(base, load.seconds)
        (folder / "speech.wav").write_bytes(body)
        expected = expect(base, adapters, folder / "speech.wav")
        write_submodels(folder / "submodels", base, adapters)
        with _serving(base, folder, num_clients, num_workers) as port:
            ask(
                port, body, [[name] for name in speakers[:num_clients] for _ in range(num_workers)]
            )  # warm-up
            one = [[speakers[k % len(speakers)] for k in range(num_clients)]]
            many = [[name] * REQUESTS for name in one[0]]
            rounds = [[ask(port, body, plan) for plan in (one, many)] for _ in range(num_rounds)]
    alone, together = zip(*rounds, strict=True)
    return [summarise(1, alone, alone, expected), summarise(num_clients, together, alone, expected)]


def expect(base: BaseModel, adapters: AdapterStack, path: Path) -> dict[str, Hypothesis]:
    """Decode a recording with each speaker's Submodel; refuse Submodels with the same result."""
    speech = read_audio(str(path), rate_hz=base.rate_hz)
    inputs = speech if base.features is None else log_mel(speech, FbankOptions.from_dict(base.features))
    adapted = AdaptedModel(base, adapters).eval()
    found = {}
    with torch.inference_mode(), adapted.hooked():
        for index, task in enumerate(adapters.tasks):
            ((path,),) = adapted.recognise(make_batch(base, [inputs], [index]))
            found[task] = Hypothesis(task, base.tokens.decode(path.tokens), path.score)
    for one, other in combinations(found.values(), 2):
        if _agree(one, other):
            raise AdaptkitError(
                f"the random Submodels of {one.utt_id} and {other.utt_id} give the same result, so a mix-up "
                "would go unnoticed; use longer audio with --sec, or larger sizes with --set"
            )
    return found


def ask(port: int, body: bytes, plan: Sequence[Sequence[str]]) -> Round:
    """Send a body for each speaker of `plan`: one client per list, which sends its requests in sequence."""
    with ThreadPoolExecutor(len(plan)) as pool:
        started = time.perf_counter()
        answers = [
            answer for found in pool.map(lambda names: _ask(port, body, names), plan) for answer in found
        ]
        return Round(time.perf_counter() - started, answers)


def summarise(
    num_clients: int, rounds: Sequence[Round], alone: Sequence[Round], expected: Mapping[str, Hypothesis]
) -> Served:
    """Summarise rounds, and count errors and wrong results."""
    answers = [answer for one in rounds for answer in one.answers]
    in_ms = sorted(1000 * answer.seconds for answer in answers)
    good = [answer for answer in answers if answer.status == http.client.OK]
    return Served(
        num_clients=num_clients,
        num_requests=len(answers),
        per_sec=statistics.median(one.per_sec for one in rounds),
        ratio=statistics.median(
            one.per_sec / other.per_sec for one, other in zip(rounds, alone, strict=True)
        ),
        median_ms=statistics.median(in_ms),
        p99_ms=percentile_99(in_ms),
        num_errors=len(answers) - len(good),
        num_wrong=sum(not _agree(answer.found, expected[answer.speaker]) for answer in good),
    )


def _ask(port: int, body: bytes, names: Sequence[str]) -> list[Answer]:
    connection = http.client.HTTPConnection(_HOST, port)
    answers = []
    for name in names:
        started = time.perf_counter()
        status, content = 0, {}
        try:
            connection.request("POST", f"/v1/recognize?{urlencode({'speaker': name})}", body)
            response = connection.getresponse()
            status, content = response.status, json.loads(response.read())
        except (
            OSError,
            http.client.HTTPException,
            ValueError,
        ):  # counted as an error; the next request reconnects
            connection.close()
        found = Hypothesis(name, content.get("text", ""), content.get("score", 0.0))
        answers.append(Answer(name, time.perf_counter() - started, status, found))
    connection.close()
    return answers


def _agree(one: Hypothesis, other: Hypothesis) -> bool:
    """Return whether two decodings agree, up to rounding that depends on the batch."""
    return one.text == other.text and abs(one.score - other.score) < TOLERANCE * abs(other.score)


def make_audio(base: BaseModel, seconds: float) -> bytes:
    """Make a WAV file of noise and tones of random loudness, so that results of Submodels differ."""
    generator = torch.Generator().manual_seed(0)
    times = torch.arange(round(seconds * base.rate_hz)) / base.rate_hz
    turn = (times / TURN_SEC).long()
    loudness, pitch, is_tone = torch.rand(3, int(turn[-1]) + 1, generator=generator)[:, turn]
    tone = torch.sin(torch.pi * pitch * base.rate_hz * times)  # up to half the rate
    noise = torch.randn(len(times), generator=generator) / 4
    speech = torch.where(is_tone > 0.5, tone, noise).clamp(-1, 1) * 10 ** (-4 * loudness)
    content = io.BytesIO()
    soundfile.write(content, speech.numpy(), base.rate_hz, format="WAV", subtype="PCM_16")
    return content.getvalue()


@contextmanager
def _serving(base: BaseModel, folder: Path, num_clients: int, num_workers: int) -> Iterator[int]:
    """Run `adaptkit serve` in a separate process until the block ends; yield its port."""
    base_dir = base.path
    if not RunFolder(base_dir).model.exists():  # a model with random weights
        base_dir = folder / "base"
        checkpoint.save(base_dir, base.config, base.model.state_dict())
    port, device = _free_port(), str(next(base.model.parameters()).device)
    sides = ["--base", str(base_dir), "--submodels", str(folder / "submodels"), "--device", device]
    sizes = ["--port", str(port), "--max-queue", str(max(256, num_clients)), "--workers", str(num_workers)]
    command = [sys.executable, "-m", "adaptkit", "serve", *sides, *sizes]
    log = folder / "serve.log"
    with open(log, "wb") as file, subprocess.Popen(command, stdout=file, stderr=file) as server:
        try:
            _wait_until_ready(server, port, log)
            yield port
        finally:
            server.terminate()


def _wait_until_ready(server: subprocess.Popen, port: int, log: Path) -> None:
    until = time.monotonic() + START_SEC
    while time.monotonic() < until:
        if server.poll() is not None:
            last = log.read_text(errors="replace").strip().splitlines()[-3:]
            raise DataError(
                f"'adaptkit serve' has ended with exit code {server.returncode}: {' '.join(last)}"
            )
        if " serves " in log.read_text(errors="replace") and _is_ready(port):  # all of its processes
            return
        time.sleep(0.1)
    raise DataError(f"'adaptkit serve' was not ready after {START_SEC} s; check the load of the machine")


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection(_HOST, port, timeout=10)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except OSError:  # not listening yet
        return False
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return probe.getsockname()[1]
