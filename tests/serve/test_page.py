"""The page for people as it is served: its addresses, types and headers, and that it names no other host."""

import re
from html.parser import HTMLParser
from pathlib import Path

import adaptkit.serve

STATIC = Path(adaptkit.serve.__file__).parent / "static"


def linked(page):
    """Every address that the page loads."""
    return re.findall(r'(?:src|href)="([^"]*)"', page)


def test_the_page_loads_only_its_own_files_which_have_the_right_types(server):
    types = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
    addresses = {*linked(server.get("/").text), *(f"static/{file.name}" for file in STATIC.glob("*.js"))}

    found = {address: server.get(f"/{address}") for address in addresses}

    assert {address for address in addresses if not address.startswith("static/")} == {"docs"}  # a link
    del found["docs"]
    assert {response.status_code for response in found.values()} == {200}
    for address, response in found.items():
        assert response.headers["content-type"].split(";")[0] == types[Path(address).suffix]
        assert response.headers["x-content-type-options"] == "nosniff"


def test_every_file_of_the_page_is_served_as_it_is(server):
    files = {file.name for file in STATIC.iterdir()} - {"index.html"}
    assert {name: server.get(f"/static/{name}").content for name in files} == {
        name: (STATIC / name).read_bytes() for name in files
    }


def test_the_page_may_load_and_ask_its_own_server_only(server):
    policy = server.get("/").headers["content-security-policy"]
    sources = {name: values for name, *values in map(str.split, policy.split(";"))}
    assert sources["default-src"] == ["'none'"]
    assert {value for values in sources.values() for value in values} == {"'none'", "'self'", "blob:"}
    assert not re.search(r"<script>|<style|style=|\son[a-z]+=", server.get("/").text)  # which it would forbid


def test_the_page_stops_recordings_at_the_limits_of_the_server(serve):
    page = serve(max_sec=7.5, max_body_mb=2).get("/").text
    assert 'data-max-sec="7.5" data-max-bytes="2000000"' in page


def test_unknown_files_are_not_found(server):
    for name in ("none.js", "index.html", "..%2fpage.py", "../page.py", "%2e%2e/page.py"):
        assert server.get(f"/static/{name}").status_code == 404


class Ids(HTMLParser):
    """The ids of a page, and those that its labels and descriptions refer to."""

    def __init__(self, page):
        super().__init__()
        self.own, self.named = [], set()
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id":
                self.own.append(value)
            elif name in ("for", "aria-labelledby", "aria-describedby"):
                self.named.update(value.split())


def test_every_id_is_unique_and_those_named_by_labels_and_the_script_exist(server):
    ids = Ids(server.get("/").text)
    named = set(re.findall(r'\$\("([a-z-]+)"\)', (STATIC / "page.js").read_text()))
    assert len(ids.own) == len(set(ids.own))
    assert (ids.named | named) - set(ids.own) == set()
