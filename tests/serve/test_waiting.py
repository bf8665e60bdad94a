"""Requests that wait: how many may, how long, and for whom."""

import asyncio
import contextlib

import pytest

from adaptkit.serve.app import create_app


@pytest.fixture
def held(serve):
    """Start a server of one slot, held for spk1: requests for spk2 wait until `release` is called."""
    with contextlib.ExitStack() as stack:

        def hold(**limits):
            server = serve(submodel_mb=0.0015, **limits)
            stack.enter_context(server.service.cache.using(["spk1"]))
            return server, stack.close

        yield hold


def post(client, body, speaker="spk2"):
    return asyncio.ensure_future(client.post("/v1/recognize", params={"speaker": speaker}, content=body))


async def occupy(server, client, body):
    """Let the model wait for the slot with a first request."""
    first = post(client, body)
    await server.until(lambda: server.service.cache.stats().waits == 1)
    return first


def test_requests_beyond_the_limit_are_503_with_retry_after(held, audio):
    server, release = held(max_queue=2)

    async def talk(client):
        waiting = [post(client, audio()) for _ in range(2)]
        await server.until(lambda: server.service.num_open == 2)
        refused, health = await post(client, audio()), await client.get("/health")
        release()
        return refused, health, await asyncio.gather(*waiting)

    refused, health, served = server.run(talk)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert "2 requests are in progress already" in refused.json()["message"]
    assert [one.status_code for one in (health, *served)] == [200, 200, 200]


def test_a_request_that_waits_too_long_is_504_and_leaves_the_queue(held, audio):
    server, release = held(timeout_sec=0.5)

    async def talk(client):
        first = await occupy(server, client, audio())
        return await asyncio.gather(first, *(post(client, audio()) for _ in range(3)))

    answers = server.run(talk)
    assert [answer.status_code for answer in answers] == [504] * 4
    assert "ask for a higher --timeout-sec" in answers[0].json()["message"]
    assert len(server.service.queue) == 0
    release()
    assert server.post(audio(), "spk2").status_code == 200


def test_a_body_that_comes_too_slowly_is_408(serve, audio):
    server = serve(timeout_sec=0.5)

    async def stuck():
        yield audio()[:100]
        await asyncio.Event().wait()

    assert server.post(stuck(), "spk1").status_code == 408
    assert server.post(audio(), "spk1").status_code == 200


class Leaver:
    """A client that sends its body and leaves when told, as a web server tells an application."""

    def __init__(self, app, body, speaker="spk2"):
        self.app, self.body, self.statuses = app, body, []
        self.is_gone = asyncio.Event()
        query = f"speaker={speaker}".encode()
        self.scope = {"type": "http", "method": "POST", "path": "/v1/recognize", "query_string": query}

    async def receive(self):
        if self.body is None:
            await self.is_gone.wait()
            return {"type": "http.disconnect"}
        body, self.body = self.body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message):
        self.statuses.append(message.get("status"))

    def run(self):
        scope = {**self.scope, "headers": [(b"host", b"localhost")]}
        return asyncio.ensure_future(self.app(scope, self.receive, self.send))


def test_a_client_that_leaves_is_dropped_from_the_queue_and_the_next_is_served(held, audio):
    server, release = held()

    async def talk(client):
        first, queue = await occupy(server, client, audio()), server.service.queue
        leavers = [Leaver(create_app(server.service), audio()) for _ in range(3)]
        running = [leaver.run() for leaver in leavers]
        await server.until(lambda: len(queue) == 3)
        next_one = post(client, audio())
        await server.until(lambda: len(queue) == 4)
        for leaver in leavers:
            leaver.is_gone.set()
        await asyncio.gather(*running)
        assert [leaver.statuses[0] for leaver in leavers] == [499] * 3
        assert len(queue) == 1
        release()
        return await asyncio.gather(first, next_one)

    answers = server.run(talk)
    assert [answer.json()["timings"]["batch_size"] for answer in answers] == [1, 1]


def test_a_client_that_leaves_while_it_sends_does_no_harm(server, audio):
    async def talk(client):
        leaver = Leaver(create_app(server.service), None)
        leaver.is_gone.set()
        await leaver.run()
        return leaver.statuses, await post(client, audio())

    statuses, after = server.run(talk)
    assert (statuses[0], after.status_code) == (499, 200)


def test_requests_that_come_while_the_model_works_make_up_the_next_batch(held, audio):
    server, release = held()

    async def talk(client):
        first = await occupy(server, client, audio())
        others = [post(client, audio()) for _ in range(5)]
        await server.until(lambda: len(server.service.queue) == 5)
        release()
        return await asyncio.gather(first, *others)

    sizes = [answer.json()["timings"]["batch_size"] for answer in server.run(talk)]
    assert sizes == [1, 5, 5, 5, 5, 5]


def test_an_error_of_ours_is_500_and_logged_and_requests_under_way_are_counted_off(server, audio, caplog):
    server.service.cache.close()
    response = server.post(audio(), "spk1")
    assert (response.status_code, response.json()["message"]) == (
        500,
        "internal error; see the log of the server",
    )
    assert "RuntimeError: the cache of Submodels is closed" in caplog.text
    assert server.service.num_open == 0
