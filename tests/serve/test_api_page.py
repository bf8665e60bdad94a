"""The page of the API: it comes from the server alone, and names the address that was asked."""

import re

import pytest


def test_the_page_and_all_that_it_loads_come_from_the_server(server):
    page = server.get("/docs").text
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(addresses) == 3
    for address in (*addresses, *re.findall(r"url: '([^']*)'", page)):
        assert "//" not in address
        assert not address.startswith("/")  # a proxy may serve it under a prefix
        assert server.get(f"/{address}").status_code == 200
    assert "http" not in page


def test_the_page_runs_its_own_script_only(server):
    response = server.get("/docs")
    policy = response.headers["content-security-policy"]
    assert re.search(r"script-src 'self' 'sha256-[^']+';", policy)
    assert "default-src 'none'" in policy
    assert response.text.count("<script>") == 1


@pytest.mark.parametrize(
    ("headers", "address"),
    [
        ({"Host": "localhost:8765"}, "http://localhost:8765"),
        ({"Host": "clinic.example", "X-Forwarded-Proto": "https"}, "https://clinic.example"),
    ],
)
def test_examples_have_the_address_that_the_client_has_used(serve, headers, address):
    server = serve(allowed_hosts=("clinic.example",))
    schema = server.run(lambda client: client.get("/openapi.json", headers=headers)).json()
    about = schema["info"]["description"]
    assert set(re.findall(r"https?://[^/ ]+(?=/v1)", about)) == {address}
    assert schema["servers"][0]["url"] == "."


def test_the_page_for_people_links_to_it(server):
    assert 'href="docs"' in server.get("/").text
