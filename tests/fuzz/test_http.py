"""Seeded attacks on the server over HTTP; a fuzz driver may use `cases`, `send` and `classify`."""

import io
import random
from dataclasses import dataclass, field

import httpx
import numpy as np
import pytest
import soundfile

RATE_HZ = 8000


@dataclass(frozen=True)
class Attack:
    """A request: `path` and headers as they are, and a body."""

    method: str = "POST"
    path: str = "/v1/recognize"
    body: bytes = b""
    headers: dict = field(default_factory=dict)


def cases(seed, count):
    """Yield `count` pairs of a name and an `Attack`; the same ones for the same seed."""
    for index in range(count):
        rng = random.Random(f"{seed} {index}")
        name = rng.choice(sorted(_KINDS))
        yield f"{name}-{seed}-{index}", _KINDS[name](rng)


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


@pytest.mark.slow
def test_attacks_end_in_a_clear_error_or_a_right_result(started, base_dir, submodels):
    with started(
        "--base", base_dir, "--submodels", submodels, "--max-body-mb", "1", "--max-sec", "10"
    ) as server:
        found = {}
        for name, attack in cases(0, 100):
            response = send(server.url, attack)
            found[name] = classify(response), response.status_code, response.text[:200]
        assert httpx.get(f"{server.url}/health").json()["ready"]
    assert {n: one for n, one in found.items() if one[0] not in ("clear error", "right result")} == {}
    assert {one[0] for one in found.values()} == {"clear error", "right result"}
