"""The page for people, at `/`: HTML, a stylesheet and scripts that load nothing from other hosts."""

from importlib import resources
from string import Template

from fastapi import FastAPI
from fastapi.responses import Response

_TYPES = {
    "audio.js": "text/javascript",
    "capture.js": "text/javascript",
    "icon.svg": "image/svg+xml",
    "page.css": "text/css",
    "page.js": "text/javascript",
    "server.js": "text/javascript",
}
FOLDER = "/static/"  # of their addresses
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "microphone=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # a newer server has a newer page
}


def add_page(app: FastAPI, *, most_sec: float, most_bytes: int) -> None:
    """Add the page and its files; it stops recordings at `most_sec` seconds or `most_bytes` bytes."""
    folder = resources.files("adaptkit.serve") / "static"
    page = Template((folder / "index.html").read_text(encoding="utf-8"))
    _add_file(app, "/", page.substitute(max_sec=f"{most_sec:g}", max_bytes=most_bytes), "text/html")
    for name, media_type in _TYPES.items():
        _add_file(app, f"{FOLDER}{name}", (folder / name).read_text(encoding="utf-8"), media_type)


def _add_file(app: FastAPI, path: str, content: str, media_type: str) -> None:
    """Serve a file at an address of its own: no part of an address is ever used as a path."""

    @app.get(path, include_in_schema=False)
    def file() -> Response:
        return Response(content, media_type=media_type, headers=_HEADERS)
