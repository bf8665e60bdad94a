"""Tokens, and what other hosts and pages of other sites may do without one."""

import re

import httpx
import pytest

from adaptkit.serve.access import OPEN
from adaptkit.serve.app import create_app

TOKENS = ("first-token", "second-token")
OTHER_HOST = ("192.0.2.7", 40000)


def ask(server, method, path, **options):
    """Ask a server, by default as a program on this machine."""
    return server.run(lambda client: client.request(method, path, **options))


def ask_from(address, server, method, path, **options):
    """Ask a server from another address."""

    async def talk(client):
        transport = httpx.ASGITransport(create_app(server.service), client=address)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as other:
            return await other.request(method, path, **options)

    return server.run(talk)


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def test_every_route_but_the_open_ones_needs_a_token(serve):
    server, found = serve(tokens=TOKENS), {}
    for route in create_app(server.service).routes:
        for method in sorted(route.methods - {"HEAD"}):
            path = re.sub(r"{\w+}", "spk1", route.path)
            found[method, path] = ask(server, method, path).status_code

    is_open = {path for (_, path), status in found.items() if status != 401}
    assert {path for path in is_open if not path.startswith(("/static/", "/docs-files/"))} <= set(OPEN)
    assert is_open >= {"/", "/health", "/openapi.json", "/static/page.js"}
    assert found["POST", "/v1/recognize"] == found["GET", "/metrics"] == 401
    assert found["PUT", "/v1/speakers/spk1"] == found["POST", "/v1/corrections"] == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (bearer("first-token"), 200),
        (bearer("second-token"), 200),
        ({"Authorization": "bearer  first-token"}, 200),
        (bearer("third-token"), 401),
        (bearer(""), 401),
        (bearer("first-token second-token"), 401),
        ({"Authorization": "Basic first-token"}, 401),
        ({"Authorization": "first-token"}, 401),
        ({"Authorization": b"Bearer \xff"}, 401),
        ({}, 401),
    ],
)
def test_only_a_token_of_the_file_is_accepted(serve, headers, status):
    response = ask(serve(tokens=TOKENS), "GET", "/v1/submodels", headers=headers)
    assert response.status_code == status
    if status == 401:
        assert response.headers["www-authenticate"] == "Bearer"
        assert "Authorization: Bearer TOKEN" in response.json()["message"]


def test_routes_of_openai_refuse_in_its_form(serve):
    response = ask(serve(tokens=TOKENS), "GET", "/v1/models")
    assert response.status_code == 401
    assert "Authorization: Bearer TOKEN" in response.json()["error"]["message"]


def test_with_a_token_other_hosts_may_do_everything(serve):
    server = serve(tokens=TOKENS)
    for method, path in (("GET", "/v1/submodels"), ("GET", "/v1/speakers"), ("PUT", "/v1/speakers/eve")):
        response = ask_from(OTHER_HOST, server, method, path, headers=bearer(TOKENS[0]))
        assert response.status_code not in (401, 403)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/speakers"),
        ("GET", "/v1/speakers/spk1/recordings/p1"),
        ("PUT", "/v1/speakers/spk1"),
        ("DELETE", "/v1/speakers/spk1"),
        ("POST", "/v1/speakers/spk1/enroll"),
        ("POST", "/v1/corrections"),
    ],
)
def test_without_tokens_data_of_speakers_are_for_this_machine_only(server, method, path):
    remote = ask_from(OTHER_HOST, server, method, path)
    forwarded = ask(server, method, path, headers={"X-Forwarded-For": "127.0.0.1"})

    assert remote.status_code == forwarded.status_code == 403
    assert "--token-file FILE" in remote.json()["message"]
    for address in ("127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"):
        assert ask_from((address, 40000), server, method, path).status_code not in (401, 403)


def test_without_tokens_other_hosts_are_recognised(server, audio):
    assert ask_from(OTHER_HOST, server, "POST", "/v1/recognize", content=audio()).status_code == 200
    assert ask_from(OTHER_HOST, server, "GET", "/").status_code == 200


@pytest.mark.parametrize("tokens", [(), TOKENS])
def test_a_page_of_another_site_changes_nothing(serve, tokens):
    server = serve(tokens=tokens)
    for origin in ("http://evil.example", "http://localhost:1", "null", "http://["):
        headers = {"Origin": origin, **bearer(TOKENS[0])}
        assert ask(server, "DELETE", "/v1/speakers/spk1", headers=headers).status_code == 403
    headers["Origin"] = "http://localhost"
    assert ask(server, "DELETE", "/v1/speakers/spk1", headers=headers).status_code != 403


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        ("secret\n", 0o644, "other users may read or write its tokens; run: chmod 600 '{path}'"),
        ("secret\n", 0o620, "other users may read or write its tokens; run: chmod 600 '{path}'"),
        (" \n\n", 0o600, "holds no token; write one, for example by: openssl rand -hex 32 > '{path}'"),
        ("good\ntwo words\n", 0o600, "token 2 has spaces or is not ASCII; use letters and digits"),
        ("sécret\n", 0o600, "token 1 has spaces or is not ASCII; use letters and digits"),
    ],
)
def test_a_file_of_tokens_that_protects_nothing_is_refused(
    adaptkit, base_dir, submodels, tmp_path, content, mode, message
):
    path = tmp_path / "tokens"
    path.write_text(content, encoding="utf-8")
    path.chmod(mode)
    done = adaptkit("serve", "--base", base_dir, "--submodels", submodels, "--token-file", path)
    assert (done.exit_code, done.stderr) == (1, f"adaptkit: {path}: {message.format(path=path)}\n")


@pytest.mark.slow
def test_a_server_takes_its_tokens_from_a_file(started, base_dir, submodels, tmp_path):
    path = tmp_path / "tokens"
    path.write_text("\n".join(TOKENS))
    path.chmod(0o600)
    words = ("--base", base_dir, "--submodels", submodels, "--token-file", path)
    with started(*words) as server:
        url = f"{server.url}/v1/submodels"
        assert httpx.get(url).status_code == 401
        assert httpx.get(url, headers=bearer(TOKENS[1])).status_code == 200
    assert not any(token in line for token in TOKENS for line in server.log)
