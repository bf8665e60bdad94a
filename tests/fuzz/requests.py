"""Seeded attacks on the server over HTTP."""

import atexit
import functools
import io
import random
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field

import httpx
import numpy as np
import soundfile

from tests.fuzz.outcome import Kind, Outcome

RATE_HZ = 8000


@dataclass(frozen=True)
class Attack:
    """A request: `path` and headers as they are, and a body."""

    method: str = "POST"
    path: str = "/v1/recognize"
    body: bytes = b""
    headers: dict = field(default_factory=dict)


def send(url, attack, timeout=30):
    """Send an attack to the server at `url` (http://127.0.0.1:8000); return the response."""
    return httpx.request(
        attack.method, url + attack.path, content=attack.body, headers=attack.headers, timeout=timeout
    )


def classify(response):
    """Return "clear error", "right result", "traceback" or "silent"."""
    if response.status_code >= 500:
        return "traceback"
    try:
        answer = response.json()
    except ValueError:
        is_text = response.request.url.path in ("/", "/metrics") and response.status_code == 200
        return "right result" if is_text else "silent"
    if response.status_code >= 400:
        return "clear error" if answer.get("message") and answer.get("status") else "silent"
    return "right result"


def _speech(rng, seconds=0.5, **options):
    content = io.BytesIO()
    samples = 0.1 * np.random.default_rng(rng.getrandbits(32)).normal(size=round(seconds * RATE_HZ))
    soundfile.write(content, options.pop("samples", samples), RATE_HZ, **{"format": "WAV", **options})
    return content.getvalue()


def _flip(rng):
    format_ = rng.choice(["WAV", "FLAC", "OGG", "AIFF", "AU", "W64", "CAF"])
    body = bytearray(_speech(rng, format=format_))
    for _ in range(rng.randint(1, 20)):
        body[rng.randrange(rng.choice([64, len(body)]))] = rng.randrange(256)
    return Attack(body=bytes(body))


def _cut(rng):
    body = _speech(rng, format=rng.choice(["WAV", "FLAC", "OGG"]))
    return Attack(body=body[: rng.randrange(len(body))] + rng.randbytes(rng.choice([0, 0, 100])))


def _claims_hours(rng):
    body = bytearray(_speech(rng, 1.0))
    body[40:44] = (10 * 3600 * RATE_HZ * 2 & 0xFFFFFFFF).to_bytes(4, "little")
    return Attack(body=bytes(body))


def _flac_claims(rng):
    body = bytearray(_speech(rng, 1.0, format="FLAC"))
    body[21:26] = bytes([body[21] & 0xF0 | rng.randrange(16)]) + rng.randbytes(4)  # the number of samples
    return Attack(body=bytes(body))


def _bomb(rng):
    return Attack(body=_speech(rng, samples=np.zeros(RATE_HZ * rng.randint(20, 900)), format="FLAC"))


def _hidden_bomb(rng):
    body = bytearray(_bomb(rng).body)
    body[21:26] = bytes([body[21] & 0xF0]) + RATE_HZ.to_bytes(4, "big")  # claims a second
    return Attack(body=bytes(body))


def _odd_values(rng):
    samples = np.zeros(RATE_HZ, np.float32)
    samples[rng.randrange(RATE_HZ)] = rng.choice([np.nan, np.inf, -np.inf, 1e30, 2.0])
    return Attack(body=_speech(rng, samples=samples, subtype="FLOAT"))


def _form(rng):
    head = b'--x\r\nContent-Disposition: form-data; name="f"\r\n\r\n'
    body = head[: rng.randint(2, len(head))] + _speech(rng) + rng.choice([b"", b"\r\n--x--\r\n"])
    return Attack(body=body, headers={"Content-Type": "multipart/form-data; boundary=x"})


def _speaker(rng):
    odd = [
        "%00",
        "..%2F..%2Fetc%2Fpasswd",
        "%FF%FE",
        "%F0%9F%98%80",
        "a" * 1001,
        "",
        "%2Bshared",
        "spk1%0D%0A",
    ]
    query = rng.choice(["?speaker=", "?speaker=x&speaker=", "?other=", "?=", "?speaker"]) + rng.choice(odd)
    return Attack(path="/v1/recognize" + query, body=_speech(rng))


def _headers(rng):
    name = rng.choice(["Content-Type", "Accept", "X-Odd", "Range", "Content-Encoding", "Cookie", "Host"])
    value = bytes(rng.choice(range(0x80, 0x100)) for _ in range(rng.randint(1, 50)))
    return Attack(body=_speech(rng), headers={name: value})


def _path(rng):
    paths = [
        "/",
        "/health",
        "/metrics",
        "/v1/submodels",
        "/v1/%2e%2e/x",
        "/openapi.json",
        "/%00",
        "/v1/recognize/",
    ]
    methods = ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "POST"]
    return Attack(method=rng.choice(methods), path=rng.choice(paths), body=rng.randbytes(rng.choice([0, 10])))


def _noise(rng):
    return Attack(body=rng.randbytes(rng.choice([0, 1, 3, 100, 10_000, 1_200_000])))


def _plain(rng):
    return Attack(
        body=_speech(rng, rng.uniform(0.001, 3)), headers={"Content-Type": rng.choice(["", "text/xml"])}
    )


_KINDS = {
    "flip": _flip,
    "cut": _cut,
    "claims hours": _claims_hours,
    "flac claims": _flac_claims,
    "bomb": _bomb,
    "hidden bomb": _hidden_bomb,
    "odd values": _odd_values,
    "form": _form,
    "speaker": _speaker,
    "headers": _headers,
    "path": _path,
    "noise": _noise,
    "plain": _plain,
}


@functools.lru_cache(maxsize=1)
def _server(folder):
    """Start a server for the rest of this process; return its address."""
    options = ["--base", folder / "base", "--submodels", folder / "submodels", "--device", "cpu"]
    options += ["--port", "0", "--max-body-mb", "1", "--max-sec", "10"]
    command = [sys.executable, "-m", "adaptkit", "serve", *map(str, options)]
    log = folder / "serve.log"
    with open(log, "w") as stderr:
        process = subprocess.Popen(command, stdout=stderr, stderr=stderr)
    atexit.register(process.kill)
    while (found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())) is None:
        if process.poll() is not None:
            raise RuntimeError(f"no server: {log.read_text()}")
        time.sleep(0.05)
    return found[0]


def http(world, seed):
    """Send one attack to a server."""
    rng = random.Random(f"0 {seed}")
    name = rng.choice(sorted(_KINDS))
    attack = _KINDS[name](rng)
    url = _server(world.folder)
    what = f"{name}: {attack.method} {ascii(attack.path)[:100]}, {len(attack.body)} bytes"
    try:
        response = send(url, attack)
    except httpx.TimeoutException:
        return Outcome(Kind.HANG, what, "no answer in 30 s")
    return Outcome(Kind(classify(response)), what, f"{response.status_code} {response.text[:500]}")
