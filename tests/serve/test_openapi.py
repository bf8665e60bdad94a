"""What machines read of the server: its OpenAPI description, its health and its metrics."""

import json

import pytest
from prometheus_client.parser import text_string_to_metric_families

from adaptkit.serve import openai_schemas, openapi
from adaptkit.serve.enrollment import openapi as speakers
from adaptkit.serve.enrollment.schemas import Job, Prompts, Recording, Speakers
from adaptkit.serve.schemas import Health, Recognised, Submodels

KEEPING = {400, 404, 408, 409, 413, 415, 422, 500, 503, 507}
ROUTES = {
    ("/v1/recognize", "post"): {200, 400, 404, 408, 409, 413, 415, 422, 500, 503, 504},
    ("/v1/audio/transcriptions", "post"): {200, 400, 404, 408, 409, 413, 415, 422, 500, 503, 504},
    ("/v1/models", "get"): {200, 500},
    ("/v1/models/{name}", "get"): {200, 404, 422, 500},
    ("/v1/submodels", "get"): {200, 500},
    ("/health", "get"): {200, 500, 503},
    ("/metrics", "get"): {200, 500},
    ("/v1/prompts", "get"): {200, 404, 500},
    ("/v1/speakers", "get"): {200, 404, 500, 503},
    ("/v1/speakers/{name}", "put"): {200, 201, 400, 404, 422, 500, 503, 507},
    ("/v1/speakers/{name}", "get"): {200, 400, 404, 422, 500, 503},
    ("/v1/speakers/{name}", "delete"): {204, 400, 404, 422, 500, 503},
    ("/v1/speakers/{name}/recordings", "post"): {201, *KEEPING},
    ("/v1/corrections", "post"): {201, *KEEPING},
    ("/v1/speakers/{name}/recordings/{recording}", "get"): {200, 400, 404, 422, 500, 503},
    ("/v1/speakers/{name}/recordings/{recording}", "delete"): {204, 400, 404, 422, 500, 503, 507},
    ("/v1/speakers/{name}/enroll", "post"): {202, 400, 404, 409, 422, 500, 503, 507},
    ("/v1/speakers/{name}/enroll", "get"): {200, 400, 404, 422, 500, 503},
    ("/v1/speakers/{name}/enroll", "delete"): {202, 400, 404, 422, 500, 503},
}


@pytest.fixture
def schema(server):
    """The OpenAPI description."""
    return server.get("/openapi.json").json()


@pytest.fixture
def samples(server):
    """Read the metrics: every value by name and labels."""

    def read():
        families = text_string_to_metric_families(server.get("/metrics").text)
        found = [sample for family in families for sample in family.samples]
        return {(one.name, *sorted(one.labels.values())): one.value for one in found}

    return read


def operations(schema):
    return {(path, verb): op for path, verbs in schema["paths"].items() for verb, op in verbs.items()}


def resolve(schema, part):
    while "$ref" in part:
        part = schema["components"]["schemas"][part["$ref"].rsplit("/", 1)[1]]
    return part


def test_every_route_has_every_status_it_can_give(schema):
    found = {route: set(map(int, op["responses"])) for route, op in operations(schema).items()}
    assert found == ROUTES


def test_every_route_and_parameter_and_status_is_described(schema):
    for operation in operations(schema).values():
        assert operation["summary"]
        assert operation["description"].endswith(".")
        assert all(parameter["description"] for parameter in operation.get("parameters", []))
        assert all(response["description"] for response in operation["responses"].values())


def test_every_json_answer_has_a_model_with_described_fields_and_an_example(schema):
    files = ("/metrics", "/v1/speakers/{name}/recordings/{recording}")
    for route, operation in operations(schema).items():
        for status, response in operation["responses"].items():
            content = response.get("content", {})
            if "application/json" in content:
                model = resolve(schema, content["application/json"]["schema"])["properties"]
                example = content["application/json"]["example"]
                nullable = {name for name, one in model.items() if "anyOf" in one}  # FastAPI leaves null out
                assert set(model) - nullable <= set(example) <= set(model), (route, status)
            else:
                assert route[0] in files or status == "204"


def test_every_failure_says_its_status_and_a_message(schema):
    for operation in operations(schema).values():
        for status, response in operation["responses"].items():
            if status.startswith("2"):
                continue
            example = next(iter(response["content"].values()))["example"]
            assert "ready" in example or "error" in example or example["status"] == int(status)


def test_the_body_is_required_and_binary_in_every_format(schema):
    body = schema["paths"]["/v1/recognize"]["post"]["requestBody"]
    assert body["required"]
    assert {"audio/wav", "audio/flac", "audio/ogg"} < set(body["content"])
    assert all(content["schema"]["format"] == "binary" for content in body["content"].values())


def test_the_parameters_are_optional_and_have_examples(schema):
    parameters = schema["paths"]["/v1/recognize"]["post"]["parameters"]
    found = [(one["name"], one["in"], one["required"], one["schema"]["examples"]) for one in parameters]
    assert found == [("speaker", "query", False, ["bob"]), ("nbest", "query", False, [3])]


def test_answers_are_as_described(server, audio):
    Recognised.model_validate(server.post(audio(), "spk1").json(), strict=True)
    Submodels.model_validate(server.get("/v1/submodels").json(), strict=True)
    Health.model_validate(server.get("/health").json(), strict=True)


def test_the_examples_are_answers():
    models = {
        Recognised: [openapi.RECOGNISED],
        Submodels: [openapi.SUBMODELS],
        openai_schemas.Model: [openai_schemas.MODEL],
        openai_schemas.Transcription: [openai_schemas.TRANSCRIPTION, openai_schemas.VERBOSE],
        Prompts: [speakers.PROMPTS],
        Speakers: [{"speakers": [speakers.SPEAKER]}],
        Recording: [speakers.RECORDING, speakers.CORRECTION],
        Job: [speakers.QUEUED, speakers.JOB, speakers.CANCELLED],
    }
    for model, examples in models.items():
        for example in examples:
            model.model_validate(example, strict=True)


def test_health_tells_what_is_served(server, base):
    assert server.get("/health").json() == {
        "ready": True,
        "base_fingerprint": base.fingerprint,
        "num_known": 3,
        "queue_length": 0,
    }


def test_a_server_whose_model_is_gone_is_not_healthy(server):
    server.service.queue.close()
    server.service._worker.join()
    response = server.get("/health")
    assert (response.status_code, response.json()["ready"]) == (503, False)


def test_a_server_that_no_longer_watches_its_folder_is_not_healthy(server):
    server.service._watch.close()
    assert server.get("/health").status_code == 503


def test_metrics_count_requests_batches_audio_and_the_cache(server, audio, samples):
    for body, speaker in ((audio(), "spk1"), (audio(), "spk1"), (audio(), None), (b"none", "spk1")):
        server.post(body, speaker)
    server.post(audio(), "nobody")
    server.get("/no/such/path")
    found = samples()
    assert found["adaptkit_requests_total", "/v1/recognize", "200"] == 3
    assert found["adaptkit_requests_total", "/v1/recognize", "404"] == 1
    assert found["adaptkit_requests_total", "/v1/recognize", "415"] == 1
    assert found["adaptkit_requests_total", "404", "other"] == 1
    assert found["adaptkit_request_seconds_count", "/v1/recognize"] == 5
    assert found["adaptkit_batch_size_count",] == 3
    assert found["adaptkit_batch_size_sum",] == 3
    assert found["adaptkit_audio_seconds_total",] == pytest.approx(1.5)
    assert (found["adaptkit_queue_length",], found["adaptkit_requests_open",]) == (0, 0)
    assert (found["adaptkit_submodel_resident",], found["adaptkit_submodel_known",]) == (1, 3)
    assert found["adaptkit_submodel_resident_bytes",] == server.service.cache.bytes_each
    assert found["adaptkit_submodel_misses_total",] + found["adaptkit_submodel_hits_total",] >= 2
    assert found["adaptkit_submodel_evictions_total",] == 0


def test_requests_that_fail_by_our_fault_are_counted(server, audio, samples):
    server.service.cache.close()
    server.post(audio(), "spk1")
    assert samples()["adaptkit_requests_total", "/v1/recognize", "500"] == 1


def test_the_type_of_metrics_is_that_of_prometheus(server):
    assert server.get("/metrics").headers["content-type"].startswith("text/plain; version=0.0.4")


def test_every_number_of_the_answer_is_json(server, audio):
    json.loads(server.post(audio(), "spk1").text, parse_constant=pytest.fail)
