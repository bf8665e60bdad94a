"""Forms (multipart/form-data): received up to a size limit in memory, and taken apart."""

import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from adaptkit.serve.audio import receive
from adaptkit.serve.clients import received
from adaptkit.serve.schemas import Refusal

_MORE_BYTES = 65536  # of a form beside its file
_MOST_FIELDS = 20


@dataclass(frozen=True)
class FormFields:
    """The fields that a form may have beside its `file`, with an example of one for messages."""

    known: tuple[str, ...]
    lists: tuple[str, ...] = ()  # those that may be repeated
    example: str = "text=the words"

    @property
    def remedy(self) -> str:
        """How to send a form."""
        return f"send multipart/form-data (curl -F file=@speech.wav -F '{self.example}')"


@dataclass(frozen=True)
class Form:
    """The file of a form, and its other fields."""

    file: bytes
    fields: dict[str, str]
    lists: dict[str, list[str]] = field(default_factory=dict)


async def read_form(request: Request, fields: FormFields, *, most_bytes: int, timeout_sec: float) -> Form:
    """Receive a form; refuse one with other fields, and one that takes too long.

    Nothing of it is written to a disk.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise Refusal(415, f"the body is not a form; {fields.remedy}")
    chunks = request.stream()
    receiving = receive(request.headers, chunks, most_bytes + _MORE_BYTES, remedy=fields.remedy)
    return await _parse(request, await received(receiving, timeout_sec), fields)


async def _parse(request: Request, body: bytes, fields: FormFields) -> Form:
    async def whole() -> AsyncGenerator[bytes, None]:
        yield body
        yield b""

    parser = MultiPartParser(request.headers, whole(), max_files=1, max_fields=_MOST_FIELDS)
    parser.spool_max_size = len(body) + 1  # else a larger file is written to a temporary one
    try:
        form = await parser.parse()
    except (MultiPartException, ValueError) as error:
        raise Refusal(400, f"the form cannot be read: {error}; {fields.remedy}") from error
    try:
        return await _take_apart(form, fields)
    finally:
        await form.close()


async def _take_apart(form: FormData, fields: FormFields) -> Form:
    own: dict[str, str] = {}
    lists: dict[str, list[str]] = {}
    content: bytes | None = None
    for name, value in form.multi_items():
        if isinstance(value, str) and re.search("[\ud800-\udfff]", f"{name}{value}"):
            raise Refusal(400, "the form has characters that are not text; send it as UTF-8")
        if name in own or (name == "file" and content is not None):
            raise Refusal(400, f"{name[:100]}: given twice; send it once")
        if name == "file" and isinstance(value, UploadFile):
            content = await value.read()
        elif name in fields.lists and isinstance(value, str):
            lists.setdefault(name, []).append(value)
        elif name in fields.known and isinstance(value, str):
            own[name] = value
        else:
            names = ", ".join(("file", *fields.known, *fields.lists))
            raise Refusal(400, f"{name[:100]!r}: not a field of this form; the fields are: {names}")
    if not content:
        raise Refusal(400, f"file: there is none in the form, or it is empty; {fields.remedy}")
    return Form(content, own, lists)
