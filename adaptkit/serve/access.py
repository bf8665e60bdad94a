"""Who may use the server: holders of a token or, without tokens, other hosts except for speakers' data."""

import hmac
import stat
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv6Address
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from adaptkit.errors import ConfigError
from adaptkit.files import read_text, require_regular
from adaptkit.serve import api_page, page
from adaptkit.serve.middleware import numeric_address

OPEN = ("/", "/docs", "/openapi.json", "/health")  # to everybody, as are the files of the two pages
_PERSONAL = ("/v1/speakers", "/v1/corrections")  # and what is below them
_READING = ("GET", "HEAD")
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")
Refuse = Callable[[str, int, str, Mapping[str, str]], Response]  # of a path, with status, reason and headers


class Access:
    """Refuses requests without a token with 401 or, if there are no tokens, some from other hosts with 403.

    Without tokens, only programs on this machine can list speakers, play recordings and change anything. A
    request that a proxy has forwarded counts as one from another host. Whatever changes something is also
    refused if a page of another site sent it, as its Origin header shows.
    """

    def __init__(self, app: ASGIApp, tokens: Sequence[str], refuse: Refuse):
        self._app, self._refuse = app, refuse
        self._tokens = [token.encode() for token in tokens]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle or refuse a request."""
        refusal = self._check(scope) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    def _check(self, scope: Scope) -> Response | None:
        path, headers = scope["path"], Headers(scope=scope)
        if path in OPEN or path.startswith((page.FOLDER, api_page.FOLDER)):
            return None
        is_personal = any(path == own or path.startswith(f"{own}/") for own in _PERSONAL)
        if is_personal and scope["method"] not in _READING and not _is_own_site(headers):
            message = "a page of another site may not change anything here; use the page of this server"
            return self._refuse(path, 403, message, {})
        if self._tokens and not self._is_known(headers.get("authorization", "")):
            message = "a token is needed; send it in the header 'Authorization: Bearer TOKEN'"
            return self._refuse(path, 401, message, {"WWW-Authenticate": "Bearer"})
        if is_personal and not self._tokens and not _is_local(scope, headers):
            message = (
                "the data of speakers can be used from this machine only; start the server with "
                "--token-file FILE, and send one of its tokens"
            )
            return self._refuse(path, 403, message, {})
        return None

    def _is_known(self, authorization: str) -> bool:
        scheme, _, sent = authorization.partition(" ")
        found = [hmac.compare_digest(sent.strip().encode(), token) for token in self._tokens]
        return scheme.lower() == "bearer" and any(found)


def read_tokens(path: Path) -> tuple[str, ...]:
    """Read a file with a token on each line; it must be readable by its owner only."""
    require_regular(path)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise ConfigError(f"{path}: other users may read or write its tokens; run: chmod 600 '{path}'")
    tokens = tuple(line.strip() for line in read_text(path).splitlines() if line.strip())
    if not tokens:
        raise ConfigError(
            f"{path}: holds no token; write one, for example by: openssl rand -hex 32 > '{path}'"
        )
    for number, token in enumerate(tokens, start=1):
        if not token.isascii() or len(token.split()) > 1:
            raise ConfigError(f"{path}: token {number} has spaces or is not ASCII; use letters and digits")
    return tokens


def _is_own_site(headers: Headers) -> bool:
    """Whether the page that sent a request, if one did, is of this server."""
    origin = headers.get("origin")
    try:
        return origin is None or urlsplit(origin).netloc.lower() == headers.get("host", "").lower()
    except ValueError:  # it is no address
        return False


def _is_local(scope: Scope, headers: Headers) -> bool:
    """Whether a program on this machine has sent a request, and not for another one."""
    address = numeric_address(scope, "client")
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    is_near = address is not None and address.is_loopback
    return is_near and not any(name in headers for name in _FORWARDED)
