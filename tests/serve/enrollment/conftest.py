"""A server in this process that keeps recordings."""

from dataclasses import dataclass

import httpx
import pytest

from adaptkit.serve.enrollment.service import EnrollmentSettings

TEXTS = ("AB", "C A", "BA", "ABC", "CC", "B", "CAB", "A B")
PROMPTS = {f"p{number}": text for number, text in enumerate(TEXTS)}


@pytest.fixture
def prompts(tmp_path):
    """A table of prompts."""
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"{name} {text}\n" for name, text in PROMPTS.items()))
    return path


@dataclass(frozen=True)
class Desk:
    """A server that keeps recordings, and ways to ask it."""

    server: object
    folder: object

    def ask(self, verb, path, **options) -> httpx.Response:
        return self.server.run(lambda client: client.request(verb, f"/v1{path}", **options))

    def record(self, name, body, **fields) -> httpx.Response:
        form = {"files": {"file": ("a.wav", body)}, "data": fields}
        return self.ask("POST", f"/speakers/{name}/recordings", **form)

    def list(self, name):
        return self.ask("GET", f"/speakers/{name}").json()["recordings"]


@pytest.fixture
def desk(serve, prompts, tmp_path):
    """Start a server that keeps recordings; keywords replace its settings."""

    def start(most=1000, **changes) -> Desk:
        folder = tmp_path / "people"
        settings = EnrollmentSettings(folder, prompts, most)
        return Desk(serve(enrollment=settings, **changes), folder)

    return start
