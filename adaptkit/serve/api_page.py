"""The page of the API at `/docs`, Swagger UI from a wheel, and its description at `/openapi.json`."""

import hashlib
import re
from base64 import b64encode
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import JSONResponse, Response

from adaptkit.serve.openapi import EXAMPLE_ADDRESS

_FILES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "favicon.png": "image/png"}
FOLDER = "/docs-files/"  # of their addresses
_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
_POLICY = (
    "default-src 'none'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def add_api_page(app: FastAPI) -> None:
    """Add the page, its files and the description, whose addresses are those that the client has used."""
    folder = resources.files("fastapi_offline") / "static"
    for name, media_type in _FILES.items():
        _add_file(app, f"{FOLDER}{name}", (folder / name).read_bytes(), media_type)
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=app.title,
        swagger_js_url=f".{FOLDER}swagger-ui-bundle.js",
        swagger_css_url=f".{FOLDER}swagger-ui.css",
        swagger_favicon_url=f".{FOLDER}favicon.png",
        swagger_ui_parameters={"validatorUrl": None},  # else its logo comes from another host
    ).body
    headers = {**_HEADERS, "Content-Security-Policy": _POLICY.format(scripts=_hash_scripts(bytes(page)))}

    @app.get("/docs", include_in_schema=False)
    def docs() -> Response:
        return Response(page, media_type="text/html", headers=headers)

    @app.get("/openapi.json", include_in_schema=False)
    def description(request: Request) -> JSONResponse:
        return JSONResponse(_with_address(app.openapi(), _address(request)))


def _add_file(app: FastAPI, path: str, content: bytes, media_type: str) -> None:
    @app.get(path, include_in_schema=False)
    def file() -> Response:
        return Response(content, media_type=media_type, headers=_HEADERS)


def _hash_scripts(page: bytes) -> str:
    """Return the sources by which a policy allows the scripts inside a page, and no others."""
    scripts = re.findall(rb"<script>(.*?)</script>", page, re.DOTALL)
    return " ".join(f"'sha256-{b64encode(hashlib.sha256(one).digest()).decode()}'" for one in scripts)


def _address(request: Request) -> str:
    """Return the address that the client has used; a proxy with TLS says so."""
    is_encrypted = request.headers.get("x-forwarded-proto") == "https"
    return str(request.base_url.replace(scheme="https") if is_encrypted else request.base_url).rstrip("/")


def _with_address(schema: dict[str, Any], address: str) -> dict[str, Any]:
    about = schema["info"]["description"].replace(EXAMPLE_ADDRESS, address)
    return {**schema, "info": {**schema["info"], "description": about}}
