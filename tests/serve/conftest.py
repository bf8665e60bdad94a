"""A server over the tiny Conformer, in this process, with Submodels that say different things."""

import asyncio
import io
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile

from adaptkit.data.dataset import read_examples
from adaptkit.model import checkpoint
from adaptkit.model.adapted import AdaptedModel
from adaptkit.model.recognise import recognise
from adaptkit.serve.app import create_app
from adaptkit.serve.service import ServerLimits, ServerSettings, Service
from adaptkit.submodels import export

RATE_HZ = 8000
SPEAKERS = ("spk1", "spk10", "spk2")
LIMITS = ServerLimits(
    max_batch=64, batch_frames=24000, max_body_mb=1, max_sec=10, max_queue=256, timeout_sec=20
)


@pytest.fixture
def folder(adapter_path, base, tmp_path):
    """Their Submodels, which a test may spoil."""
    export.export(adapter_path, base, tmp_path / "submodels")
    return tmp_path / "submodels"


@pytest.fixture
def add(base, tmp_path, folder, make_exp):
    """Add the Submodel of one more speaker to the folder; another seed, another one."""

    def make(speaker, seed=5) -> Path:
        path = make_exp(base, tmp_path / "more/adapter.safetensors", [speaker], seed=seed, bottleneck=4)
        return export.export(path, base, folder)[0]

    return make


@pytest.fixture
def replace_folder(base, folder, tmp_path, make_exp):
    """Replace the folder's Submodels by those of other adapters, and maybe of another base model."""

    def make(base=base, **options) -> None:
        shutil.rmtree(folder)
        path = make_exp(base, tmp_path / "other/adapter.safetensors", SPEAKERS, **options)
        export.export(path, base, folder)

    return make


@dataclass(frozen=True)
class Server:
    """A service and ways to ask it."""

    service: Service

    def run(self, talk: Callable, timeout=30):
        """Let `talk(client)`, a coroutine, talk to the server; give what it gives."""

        async def main():
            async with self.client() as client:
                return await asyncio.wait_for(talk(client), timeout)

        return asyncio.run(main())

    @asynccontextmanager
    async def client(self):
        transport = httpx.ASGITransport(create_app(self.service), raise_app_exceptions=False)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost", timeout=None
        ) as client:
            yield client

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + 20
        while not is_so():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.001)

    def post(self, body=b"", speaker=None, **options) -> httpx.Response:
        """Ask what a body says."""
        options.setdefault("params", {} if speaker is None else {"speaker": speaker})
        return self.run(lambda client: client.post("/v1/recognize", content=body, **options))

    def get(self, path) -> httpx.Response:
        """Get a page."""
        return self.run(lambda client: client.get(path))


@pytest.fixture
def serve(base, folder):
    """Start a server; keywords replace settings and limits."""
    with ExitStack() as stack:

        def start(base=base, **changes) -> Server:
            own = {name: changes.pop(name) for name in list(changes) if name in ServerLimits.__annotations__}
            settings = ServerSettings(
                base=base.path,
                submodels=folder,
                host="127.0.0.1",
                port=0,
                submodel_mb=1,
                unknown_speaker="error",
                limits=replace(LIMITS, **own),
                refresh_sec=0.02,
            )
            return Server(stack.enter_context(Service(base, replace(settings, **changes))))

        yield start


@pytest.fixture
def server(serve):
    """A server of three speakers."""
    return serve()


@pytest.fixture(scope="session")
def recordings(corpus):
    """The training set's recordings as bodies, by utterance."""
    return {path.name.removesuffix("-0.wav"): path.read_bytes() for path in sorted(corpus.glob("*-0.wav"))}


@pytest.fixture(scope="session")
def decoded(base, corpus, adapter_path):
    """What `decode` hears in every utterance with every speaker's weights and with the base: text, score."""
    stack = checkpoint.restore(checkpoint.load(adapter_path), base, adapter_path)
    read = read_examples(corpus / "dump/train", base)
    adapted, found = AdaptedModel(base, stack).eval(), {}
    with adapted.hooked():
        for task, speaker in enumerate((*SPEAKERS, None)):
            number = -1 if speaker is None else task
            examples = replace(read, task_ids=dict.fromkeys(SPEAKERS, number))
            for hyp in recognise(adapted, examples, 12000):
                found[hyp.utt_id, speaker] = hyp.text, hyp.score
    return found


@pytest.fixture(scope="session")
def noise():
    """Make quiet noise (N,), or (N, channels)."""

    def make(seconds=0.5, rate_hz=RATE_HZ, channels=1):
        shape = (round(seconds * rate_hz), channels)[: 1 + (channels > 1)]
        return (0.1 * np.random.default_rng(0).normal(size=shape)).astype(np.float32)

    return make


@pytest.fixture(scope="session")
def audio(noise):
    """Encode samples as an audio file."""

    def encode(samples=None, rate_hz=RATE_HZ, *, format="WAV", subtype=None) -> bytes:
        content = io.BytesIO()
        chosen = noise() if samples is None else samples
        soundfile.write(content, chosen, rate_hz, format=format, subtype=subtype)
        return content.getvalue()

    return encode
