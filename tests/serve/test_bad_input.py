"""Bad requests are refused with the right status and a message, and the next one is served."""

import numpy as np
import pytest


@pytest.fixture
def refused(server, audio):
    """Assert that a request is refused with a status, and the next one is served; give the message."""

    def check(status, body, speaker="spk1", **options):
        response = server.post(body, speaker, **options)
        assert response.status_code == status, response.text
        assert response.json()["status"] == status
        assert server.post(audio(), "spk2").status_code == 200
        return response.json()["message"]

    return check


def test_what_is_not_audio_is_415(refused):
    assert refused(415, b"turn the lights on" * 99) == (
        "the body: not audio (Format not recognised); convert it to WAV or FLAC, or drop it"
    )


def test_a_form_is_415(server, audio):
    async def talk(client):
        return await client.post("/v1/recognize", files={"file": audio()})

    response = server.run(talk)
    assert response.status_code == 415
    assert "curl --data-binary" in response.json()["message"]


def test_noise_as_a_body_is_415(refused):
    refused(415, np.random.default_rng(0).bytes(900_000))


def test_an_empty_body_is_400(refused):
    assert "the body is empty" in refused(400, b"")


def test_audio_without_samples_is_422(refused, audio):
    assert "contains no samples" in refused(422, audio(np.zeros(0)))


def test_truncated_audio_is_422(refused, audio):
    assert "truncated" in refused(422, audio()[:500])


def test_truncated_flac_is_422(refused, audio, noise):
    assert "truncated" in refused(422, audio(noise(2.0), format="FLAC")[:5000])


@pytest.mark.parametrize("rate_hz", [100, 500_000])
def test_a_rate_that_no_speech_has_is_422(refused, audio, noise, rate_hz):
    assert f"the header says {rate_hz} Hz" in refused(422, audio(noise(), rate_hz))


def test_a_rate_that_is_costly_to_change_is_422(refused, audio, noise):
    assert "sox in.wav -r 8000 out.wav" in refused(422, audio(noise(), 8001))


def test_stereo_is_422(refused, audio, noise):
    assert "2 channels where one is needed" in refused(422, audio(noise(channels=2)))


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e4])
def test_samples_that_are_no_speech_are_422(refused, audio, noise, value):
    samples = noise()
    samples[100] = value
    assert "but full scale is 1" in refused(422, audio(samples, subtype="FLOAT"))


def test_long_audio_is_413(refused, audio):
    silence = audio(np.zeros(8000 * 11), format="FLAC")
    assert len(silence) < 10_000
    assert "may last at most 10 s, but lasts 11.0 s" in refused(413, silence)


def test_a_large_body_is_413(refused):
    assert "1000000 bytes, but has 1000001 bytes" in refused(413, bytes(1_000_001))


def test_a_large_body_of_unstated_length_is_413_and_not_read_to_its_end(server, refused):
    num_read = 0

    async def endless():
        nonlocal num_read
        while True:
            num_read += 1
            yield bytes(100_000)

    assert "1000000 bytes, but has more" in refused(413, endless())
    assert num_read == 11


@pytest.mark.parametrize("said", ["10", "-5", "nonsense"])
def test_a_content_length_that_lies_does_not_raise_the_limit(refused, said):
    refused(413, bytes(1_000_001), headers={"Content-Length": said})


@pytest.mark.parametrize(
    "speaker",
    [
        *("../../etc/passwd", "/etc/passwd", "spk1.safetensors", "+shared", ".", "..", "spk1/", "SPK1"),
        *("spk1\0", "%2e%2e%2f", "\udcff".encode("utf-8", "surrogatepass").decode("latin-1"), "名前"),
    ],
)
def test_a_name_that_is_none_is_404_whatever_it_looks_like(refused, audio, speaker):
    assert f"there is no Submodel of '{speaker}'" in refused(404, audio(), speaker)


def test_an_unknown_speaker_is_404_with_the_nearest_name(refused, audio):
    assert refused(404, audio(), "spk20") == (
        "speaker: there is no Submodel of 'spk20'; did you mean 'spk2'?; omit speaker for the base model"
    )


def test_a_name_that_is_no_utf8_is_404(server):
    response = server.run(lambda client: client.post("/v1/recognize?speaker=%ff%fe", content=b"x"))
    assert response.status_code == 404


@pytest.mark.parametrize("speaker", ["", "x" * 1001])
def test_a_name_of_strange_length_is_400(refused, audio, speaker):
    assert "speaker: " in refused(400, audio(), speaker)


def test_an_unknown_parameter_is_400(refused, audio):
    message = refused(400, audio(), params={"speeker": "spk1"})
    assert message == "speeker: unknown parameter; the parameters are: speaker, nbest"


def test_two_speakers_are_400(refused, audio):
    message = refused(400, audio(), params={"nbest": 1, "speaker": ["spk1", "spk2"]})
    assert message == "speaker: given 2 times; send it once"


@pytest.mark.parametrize(("path", "status"), [("/v2/recognize", 404), ("/v1/recognize", 405)])
def test_another_path_or_verb_is_refused_alike(server, path, status):
    response = server.get(path)
    assert (response.status_code, response.json()["status"]) == (status, status)


def test_an_unknown_speaker_gets_the_base_where_that_is_wanted(serve, audio):
    server = serve(unknown_speaker="base")
    unknown, base = server.post(audio(), "nobody").json(), server.post(audio()).json()
    assert (unknown["submodel"], unknown["speaker"]) == (None, "nobody")
    assert (unknown["text"], unknown["score"]) == (base["text"], base["score"])


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:80", "127.0.0.1:8000", "[::1]:8000", "asr.lan", "b.lan.:1"]
)
@pytest.mark.parametrize("path", ["/health", "/metrics", "/v1/submodels"])
def test_local_and_allowed_hosts_are_answered(serve, host, path):
    server = serve(host="asr.lan", allowed_hosts=("b.lan",))
    response = server.run(lambda client: client.get(path, headers={"Host": host}))
    assert response.status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "localhost:80:80", "", "[::1", "10.0.0.1"]
)
@pytest.mark.parametrize("path", ["/health", "/metrics", "/v1/submodels", "/"])
def test_other_hosts_are_400(server, host, path):
    response = server.run(lambda client: client.get(path, headers={"Host": host}))
    assert response.status_code == 400
    assert "--allowed-host" in response.json()["message"]
