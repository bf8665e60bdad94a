"""OpenAI's API for transcription, as its own client and curl use it."""

import asyncio
import re
import subprocess

import pytest

SPEAKERS = ("spk1", "spk10", "spk2")


def ask(server, body, **fields):
    """Send a form."""
    files = {"file": ("speech.wav", body)}
    return server.run(lambda client: client.post("/v1/audio/transcriptions", files=files, data=fields))


@pytest.fixture
def error(server, recordings):
    """Send a form that is refused; give its status and error."""

    def send(**fields):
        response = ask(server, recordings["spk1-00"], **fields)
        assert set(response.json()) == {"error"}
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        return response.status_code, response.json()["error"]

    return send


def test_models_give_what_their_submodels_hear_and_base_what_the_base_model_hears(
    server, recordings, decoded
):
    for speaker in (*SPEAKERS, None):
        answer = ask(server, recordings["spk2-01"], model=speaker or "base").json()
        assert answer["text"] == decoded["spk2-01", speaker][0]
        assert answer["usage"]["type"] == "duration"


def test_base_is_the_base_model_also_where_the_server_chooses_for_the_unknown(
    serve, add, recordings, decoded
):
    add("shared")
    server = serve(unknown_speaker="shared")
    assert ask(server, recordings["spk2-01"], model="base").json()["text"] == decoded["spk2-01", None][0]


def test_requests_share_batches_with_the_other_route(server, recordings, decoded):
    body = recordings["spk1-00"]

    async def talk(client):
        forms = [
            client.post(
                "/v1/audio/transcriptions",
                files={"file": body},
                data={"model": speaker, "response_format": "verbose_json"},
            )
            for speaker in SPEAKERS
        ]
        plain = [client.post("/v1/recognize", params={"speaker": one}, content=body) for one in SPEAKERS]
        return await asyncio.gather(*(one for pair in zip(forms, plain, strict=True) for one in pair))

    answers = [response.json() for response in server.run(talk)]
    texts = [decoded["spk1-00", speaker][0] for speaker in SPEAKERS for _ in range(2)]
    assert [answer["text"] for answer in answers] == texts
    assert max(answer["timings"]["batch_size"] for answer in answers[1::2]) > 1


def test_formats_have_the_text_and_times_of_transcribe(
    server, base_dir, submodels, recordings, adaptkit, tmp_path
):
    path = tmp_path / "speech.wav"
    path.write_bytes(recordings["spk1-00"])
    for name in ("text", "srt", "vtt"):
        words = ("--base", base_dir, "--speaker", "spk1", "--submodels", submodels, "--format", name)
        expected = adaptkit("transcribe", path, *words).stdout
        found = ask(server, path.read_bytes(), model="spk1", response_format=name)
        assert found.headers["content-type"].startswith("text/")
        if name == "text":
            assert found.text.strip() in expected
        else:
            assert found.text.strip() == expected.strip()


def test_verbose_json_has_segments_and_the_words_if_asked_for(server, recordings):
    def send(*granularities):
        fields = {"model": "spk1", "response_format": "verbose_json", "language": "en"}
        fields["timestamp_granularities[]"] = list(granularities)
        return ask(server, recordings["spk1-00"], **fields).json()

    plain, words, both = send(), send("word"), send("word", "segment")
    assert ("segments" in plain, "words" in plain) == (True, False)
    assert ("segments" in words, "words" in words) == (False, True)
    assert {**plain, **words} == both
    assert plain["language"] == "en"
    segment = plain["segments"][0]
    assert (segment["text"], segment["end"]) == (plain["text"], plain["duration"])
    assert segment["avg_logprob"] < 0
    assert [word["word"] for word in words["words"]] == plain["text"].split()
    assert all(0 <= word["start"] < word["end"] <= plain["duration"] for word in words["words"])


def test_audio_too_short_for_the_model_has_no_words(server, audio, noise):
    fields = {"model": "spk1", "response_format": "verbose_json", "timestamp_granularities[]": "word"}
    answer = ask(server, audio(noise()[:100]), **fields).json()
    assert (answer["text"], answer["words"]) == ("", [])
    assert ask(server, audio(noise()[:100]), model="spk1", response_format="vtt").text == "WEBVTT\n"


def test_an_unknown_model_is_not_found(error, server):
    status, found = error(model="spk11")
    assert (status, found["code"], found["param"]) == (404, "model_not_found", "model")
    assert "did you mean 'spk1" in found["message"]
    assert error(model="x" * 5000)[0] == 404
    assert server.get("/v1/models/spk11").json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("model", ""),
        ("response_format", "diarized_json"),
        ("timestamp_granularities[]", "word"),
        ("timestamp_granularities[]", "letter"),
        ("temperature", "0.2"),
        ("temperature", "nan"),
        ("temperature", "warm"),
        ("prompt", "names: Ann, Bob"),
        ("stream", "true"),
        ("chunking_strategy", '{"type": "server_vad"}'),
        ("language", "e" * 36),
    ],
)
def test_what_would_have_no_effect_is_refused(error, param, value):
    status, found = error(**{"model": "spk1", param: value})
    assert (status, found["param"], found["type"]) == (400, param, "invalid_request_error")
    assert param in found["message"]


def test_what_asks_for_what_is_so_anyway_is_accepted(server, recordings):
    harmless = {"temperature": "0", "stream": "false", "chunking_strategy": "auto", "prompt": ""}
    assert ask(server, recordings["spk1-00"], model="base", language="en", **harmless).status_code == 200


def test_every_error_of_these_routes_has_openais_form(server, error):
    assert "not a field" in error(model="base", logprobs="1")[1]["message"]
    assert ask(server, b"no audio", model="base").status_code == 415
    wrong = [
        server.run(lambda client: client.post("/v1/audio/transcriptions", content=b"x")),
        server.run(lambda client: client.post("/v1/audio/transcriptions", headers={"Host": "evil.example"})),
        server.run(lambda client: client.post("/v1/models")),
        server.get("/v1/audio/translations"),
    ]
    assert [response.status_code for response in wrong] == [415, 400, 405, 404]
    assert all(response.json()["error"]["message"] for response in wrong)
    assert "status" in server.get("/v1/none").json()


def test_an_empty_body_is_told_to_be_a_form(server):
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    response = server.run(lambda client: client.post("/v1/audio/transcriptions", headers=headers))
    assert "-F 'model=base'" in response.json()["error"]["message"]


def test_the_models_are_the_base_model_and_the_speakers(server, folder):
    models = server.get("/v1/models").json()["data"]
    assert [model["id"] for model in models] == ["base", *SPEAKERS]
    assert models[1]["created"] == int((folder / "spk1.safetensors").stat().st_mtime)
    assert [server.get(f"/v1/models/{model['id']}").json() for model in models] == models


@pytest.fixture(scope="module")
def running(started, base_dir, submodels):
    """A server as a process."""
    with started("--base", base_dir, "--submodels", submodels) as server:
        yield server


@pytest.mark.slow
def test_openais_own_client_is_served(running, recordings, decoded):
    import openai

    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="unused", max_retries=0)
    speech, text = ("speech.wav", recordings["spk1-00"]), decoded["spk1-00", "spk1"][0]

    def create(model="spk1", **more):
        return client.audio.transcriptions.create(model=model, file=speech, **more)

    assert [model.id for model in client.models.list()] == ["base", *SPEAKERS]
    assert client.models.retrieve("spk1").owned_by == "adaptkit"
    assert create().text == text
    assert create("base").text == decoded["spk1-00", None][0]
    assert create(response_format="text", temperature=0, language="en") == f"{text}\n"
    assert create(response_format="srt").startswith("1\n00:00:0")
    assert create(response_format="vtt").startswith("WEBVTT\n")
    verbose = create(response_format="verbose_json", timestamp_granularities=["word", "segment"])
    assert (verbose.segments[0].text, [word.word for word in verbose.words]) == (text, text.split())
    with pytest.raises(openai.NotFoundError, match="there is no Submodel of 'spk7'") as caught:
        create("spk7")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="prompt: the models") as caught:
        create(prompt="Ann")
    assert caught.value.param == "prompt"


@pytest.mark.slow
def test_curl_is_served_as_the_description_says(running, recordings, decoded, tmp_path):
    (tmp_path / "speech.wav").write_bytes(recordings["spk1-00"])

    def run(command):
        done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout

    about = run(f"curl -sS {running.url}/openapi.json")
    commands = re.findall(r"curl -[^\\]*", about)
    assert len(commands) == 2
    for command in commands:
        assert decoded["spk1-00", "spk1"][0] in run(
            command.replace("curl", "curl -sS").replace("bob", "spk1")
        )


@pytest.mark.parametrize(("charset", "language"), [("utf-7", "+2AA-"), ("unicode_escape", r"\ud800")])
def test_characters_that_are_not_text_are_refused(server, recordings, charset, language):
    fields = {"model": "spk1", "response_format": "verbose_json", "language": language}
    parts = [(f'name="{name}"', value.encode()) for name, value in fields.items()]
    parts.append(('name="file"; filename="speech.wav"', recordings["spk1-00"]))
    head = "--b\r\nContent-Disposition: form-data; "
    body = (
        b"".join(f"{head}{name}\r\n\r\n".encode() + value + b"\r\n" for name, value in parts) + b"--b--\r\n"
    )
    headers = {"Content-Type": f"multipart/form-data; boundary=b; charset={charset}"}
    response = server.run(
        lambda client: client.post("/v1/audio/transcriptions", content=body + b"--b--\r\n", headers=headers)
    )
    assert response.status_code == 400
    assert "send it as UTF-8" in response.json()["error"]["message"]
