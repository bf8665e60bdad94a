"""Waiting for clients: for the body of a request, and for a response unless the client disconnects."""

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from adaptkit.serve.schemas import Refusal

_GONE = 499  # nginx's status for a client that disconnected; only metrics show it
Result = TypeVar("Result")


async def received(body: Awaitable[bytes], timeout_sec: float) -> bytes:
    """Await the body of a request; refuse one that takes too long."""
    try:
        return await asyncio.wait_for(body, timeout_sec)
    except asyncio.TimeoutError as error:
        raise Refusal(408, f"the body was not complete after {timeout_sec:g} s; send it again") from error
    except ClientDisconnect as error:
        raise Refusal(_GONE, "the client disconnected while its body was read") from error


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result], timeout_sec: float) -> Result:
    """Await the result of a request until its timeout, or until the client disconnects."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(request))
    try:
        first = asyncio.FIRST_COMPLETED
        done, _ = await asyncio.wait({working, leaving}, timeout=timeout_sec, return_when=first)
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)
    if working in done:
        return working.result()
    if leaving in done:
        raise Refusal(_GONE, "the client disconnected before the response")
    raise Refusal(504, "no response in time; send it again, or ask for a higher --timeout-sec")


async def _left(request: Request) -> None:
    """Wait until the client disconnects; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
