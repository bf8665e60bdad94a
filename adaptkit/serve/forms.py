"""Forms (multipart/form-data): received up to a size limit in memory, and taken apart."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from adaptkit.serve.audio import receive
from adaptkit.serve.schemas import Refusal

_CLIENT_GONE = 499  # nginx's status for a client that disconnected; only metrics show it
_MORE_BYTES = 65536  # of a form beside its file
_MOST_FIELDS = 20
_AS_A_FORM = "send multipart/form-data (curl -F file=@speech.wav -F 'text=the words')"


@dataclass(frozen=True)
class Form:
    """The file of a form, and its other fields."""

    file: bytes
    fields: dict[str, str]


async def read_form(request: Request, *, known: tuple[str, ...], most_bytes: int, timeout_sec: float) -> Form:
    """Receive a form of a `file` and of `known` fields; refuse another one, and one that takes too long.

    Nothing of it is written to a disk.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise Refusal(415, f"the body is not a form; {_AS_A_FORM}")
    receiving = receive(request.headers, request.stream(), most_bytes + _MORE_BYTES)
    try:
        body = await asyncio.wait_for(receiving, timeout_sec)
    except asyncio.TimeoutError as error:
        raise Refusal(408, f"the body was not complete after {timeout_sec:g} s; send it again") from error
    except ClientDisconnect as error:
        raise Refusal(_CLIENT_GONE, "the client disconnected while its body was read") from error
    return await _parse(request, body, known)


async def _parse(request: Request, body: bytes, known: tuple[str, ...]) -> Form:
    async def whole() -> AsyncGenerator[bytes, None]:
        yield body
        yield b""

    parser = MultiPartParser(request.headers, whole(), max_files=1, max_fields=_MOST_FIELDS)
    parser.spool_max_size = len(body) + 1  # else a larger file is written to a temporary one
    try:
        form = await parser.parse()
    except (MultiPartException, ValueError) as error:
        raise Refusal(400, f"the form cannot be read: {error}; {_AS_A_FORM}") from error
    try:
        return await _take_apart(form, known)
    finally:
        await form.close()


async def _take_apart(form: FormData, known: tuple[str, ...]) -> Form:
    fields: dict[str, str] = {}
    content: bytes | None = None
    for name, value in form.multi_items():
        if name in fields or (name == "file" and content is not None):
            raise Refusal(400, f"{name[:100]}: given twice; send it once")
        if name == "file" and isinstance(value, UploadFile):
            content = await value.read()
        elif name in known and isinstance(value, str):
            fields[name] = value
        else:
            names = ", ".join(("file", *known))
            raise Refusal(400, f"{name[:100]!r}: not a field of this form; the fields are: {names}")
    if not content:
        raise Refusal(400, f"file: there is none in the form, or it is empty; {_AS_A_FORM}")
    return Form(content, fields)
