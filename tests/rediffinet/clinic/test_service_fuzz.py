"""Arbitrary requests to every operation of the OpenAPI description: never a 5xx, always a problem that says why."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

pytest.importorskip("httpx")
pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

CONTRASTS = ("t1n", "t1c", "t2w", "t2f")
FILES = (*CONTRASTS, "archive")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, toy_bundle: Any) -> Iterator[Any]:
    """The application without a computing process: what is accepted waits."""
    from fastapi.testclient import TestClient

    from rediffinet.bundle import read_manifest
    from rediffinet.clinic.service.app import create_app
    from rediffinet.clinic.service.jobs import Jobs
    from rediffinet.clinic.service.settings import Limits, Settings
    from rediffinet.clinic.service.store import JobStore
    from rediffinet.clinic.service.supervisor import Supervisor
    from rediffinet.clinic.service.tokens import TokenFile

    chosen = Settings(data=tmp_path_factory.mktemp("service"), limits=Limits(queue=100_000, upload_bytes=2**20))
    store = JobStore(chosen.database)
    jobs = Jobs(chosen, store, read_manifest(toy_bundle.path))
    app = create_app(jobs, TokenFile(chosen.tokens), Supervisor(chosen, store, lambda _: None), "0")
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as made:
        made.jobs = jobs  # type: ignore[attr-defined]
        yield made
    store.close()


def operations(client: Any) -> list[tuple[str, str]]:
    paths = client.get("/v1/openapi.json").json()["paths"]
    return [(method.upper(), path) for path, entry in paths.items() for method in entry]


def fine(answer: Any) -> None:
    allowed = answer.status_code < 500 or answer.json()["detail"].startswith("The computing process is not ready")
    assert allowed, answer.text
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["detail"]


word = st.text(st.characters(codec="utf-8"), max_size=30)
header = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)
quick = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))


def test_the_description_tells_every_operation_with_its_problems(client: Any) -> None:
    paths = client.get("/v1/openapi.json").json()["paths"]
    assert {(method, path) for path, entry in paths.items() for method in entry} >= {
        ("post", "/v1/cases"),
        ("get", "/v1/cases"),
        ("get", "/v1/cases/{case_id}"),
        ("delete", "/v1/cases/{case_id}"),
        ("post", "/v1/cases/{case_id}/cancel"),
        ("get", "/v1/cases/{case_id}/files/{name}"),
        ("get", "/healthz"),
        ("get", "/readyz"),
        ("get", "/metrics"),
    }
    assert {"413", "415", "422", "429", "507"} <= set(paths["/v1/cases"]["post"]["responses"])


def described_operations(client: Any) -> dict[tuple[str, str], Any]:
    paths = client.get("/v1/openapi.json").json()["paths"]
    return {(method, path): operation for path, entry in paths.items() for method, operation in entry.items()}


def test_the_description_asks_for_a_token_where_the_service_does(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from rediffinet.clinic.service import tokens

    (scheme,) = client.get("/v1/openapi.json").json()["components"]["securitySchemes"].items()
    assert (scheme[1]["type"], scheme[1]["scheme"]) == ("http", "bearer")
    told = described_operations(client)
    monkeypatch.setattr(tokens.TokenFile, "now", lambda _: tokens.Tokens({"clinic": "0" * 64}))
    for (method, path), operation in told.items():
        asked = client.request(method.upper(), path).status_code == 401
        assert operation.get("security", []) == ([{scheme[0]: []}] if asked else []), path
        assert ("401" in operation["responses"]) == asked
    open_to_all = {path for (_, path), operation in told.items() if "security" not in operation}
    assert open_to_all == {"/healthz", "/readyz"}


def test_every_problem_is_described_as_it_is_sent_with_an_example(client: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    document = client.get("/v1/openapi.json").json()
    assert not any("ValidationError" in name for name in document["components"]["schemas"])
    refused = 0
    for operation in described_operations(client).values():
        assert "422" in operation["responses"] or not operation.get("parameters")
        for status, response in operation["responses"].items():
            if int(status) < 400:
                continue
            refused += 1
            assert list(response["content"]) == ["application/problem+json"]
            told = response["content"]["application/problem+json"]
            assert told["schema"] == {"$ref": "#/components/schemas/ProblemInfo"}
            jsonschema.validate(told["example"], document["components"]["schemas"]["ProblemInfo"])
            assert told["example"]["status"] == int(status) and told["example"]["detail"]
    assert refused > 40


def test_the_examples_are_what_is_sent_and_answered(client: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    from rediffinet.clinic.service.requests import parse_request

    document = client.get("/v1/openapi.json").json()
    post = document["paths"]["/v1/cases"]["post"]
    form = post["requestBody"]["content"]["multipart/form-data"]
    for example in form["examples"].values():
        sent = example["value"]
        jsonschema.validate(sent, form["schema"])
        parse_request({name: json.dumps(value).strip('"') for name, value in sent.items() if name not in FILES})
    answers = [post["responses"]["200"], post["responses"]["202"]]
    answers.append(document["paths"]["/v1/cases/{case_id}"]["get"]["responses"]["200"])
    for response in answers:
        told = response["content"]["application/json"]
        assert told["schema"] == {"$ref": "#/components/schemas/CaseInfo"}
        schema = {**told["schema"], "components": document["components"]}
        jsonschema.validate(told["example"], schema)


@quick
@given(data=st.data())
def test_any_parameters_and_bodies(client: Any, data: st.DataObject) -> None:
    from urllib.parse import quote

    method, path = data.draw(st.sampled_from(operations(client)))
    for name in ("case_id", "name"):
        path = path.replace(f"{{{name}}}", quote(data.draw(word), safe=""))
    query = data.draw(st.dictionaries(st.sampled_from(("limit", "before", "from", "who", "note", "x")), word))
    kinds = ("multipart/form-data; boundary=b", "application/zip", "application/json", "multipart/form-data")
    headers = {
        "content-type": data.draw(st.sampled_from(kinds) | header),
        "idempotency-key": data.draw(header),
        "authorization": data.draw(header),
    }
    headers = {name: value.strip() for name, value in headers.items() if value.strip()}
    body = data.draw(st.binary(max_size=300))
    fine(client.request(method, path, params=query, headers=headers, content=body))


@quick
@given(
    texts=st.dictionaries(
        st.sampled_from(("name", "seed", "steps", "samples", "postprocess", "channels", "other")), word
    ),
    files=st.dictionaries(st.sampled_from((*CONTRASTS, "archive", "other")), st.binary(max_size=200), max_size=5),
)
def test_any_form(client: Any, texts: dict[str, str], files: dict[str, bytes]) -> None:
    fine(client.post("/v1/cases", data=texts, files=files or {"other": b""}))


@quick
@given(inside=st.binary(max_size=400), cut=st.integers(0, 300))
def test_any_bytes_inside_a_multipart_body(client: Any, inside: bytes, cut: int) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="t1n"; filename="x"\r\n\r\n'
    body = (head + inside + b"\r\n--b--\r\n")[: len(head) + cut]
    fine(client.post("/v1/cases", content=body, headers={"content-type": "multipart/form-data; boundary=b"}))


HERE = {"host": "127.0.0.1"}


@pytest.fixture(scope="module")
def described(client: Any) -> Any:
    """The OpenAPI description, as schemathesis reads it. /readyz is left out: nobody computes here."""
    schemathesis = pytest.importorskip("schemathesis", reason="the package schemathesis is not installed")
    return schemathesis.openapi.from_asgi("/v1/openapi.json", client.app, headers=HERE).exclude(path="/readyz")


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_what_the_description_allows_and_what_it_does_not(described: Any, mode: str) -> None:
    """Each operation by itself; the plugin of schemathesis for pytest wants an attribute that pytest 9 has not."""
    import schemathesis
    from schemathesis.specs.openapi import checks

    asked = schemathesis.GenerationMode(mode)
    checked = [
        schemathesis.checks.not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    ]
    seen = []
    for found in described.get_all_operations():
        operation = found.ok()
        seen.append(operation.label)

        @settings(quick, max_examples=20)
        @given(case=operation.as_strategy(generation_mode=asked))
        def check(case: Any) -> None:
            case.call_and_validate(headers=HERE, checks=checked)

        try:
            check()
        except Unsatisfiable:  # what takes nothing, or any word, cannot be asked wrongly
            assert asked.is_negative
    assert "POST /v1/cases" in seen and len(seen) >= 11


def test_nothing_outside_was_written_and_nothing_half(client: Any) -> None:
    """After all of the above: a folder for each accepted case, none of an upload that was refused."""
    jobs = client.jobs
    cases = {job.id for job in jobs.store.newest("", 2**31)}
    assert {path.name for path in jobs.settings.jobs.iterdir()} == cases
    known = {"cases", "jobs.sqlite", "jobs.sqlite-wal", "jobs.sqlite-shm"}
    assert {path.name for path in Path(jobs.settings.data).iterdir()} <= known


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("GET", "/scene"),
        ("GET", "/files/results.zip"),
        ("GET", "/files/P1-seg.nii.gz"),
        ("POST", "/cancel"),
        ("POST", "/store"),
        ("DELETE", ""),
        ("POST", "/corrections?from=P1-seg.nii.gz&sha256=x&who=A"),
    ],
)
def test_a_case_that_is_removed_while_it_is_asked_about(
    client: Any, monkeypatch: pytest.MonkeyPatch, method: str, path: str
) -> None:
    jobs = client.jobs
    while jobs.store.claim() is not None:  # whatever other tests sent
        pass
    found = client.post("/v1/cases", files={name: b"x" for name in CONTRASTS}).json()["id"]
    jobs.store.claim()
    out = jobs.settings.jobs / found / "out"
    out.mkdir()
    files = {"segmentation": "P1-seg.nii.gz", "dicom-seg": "P1.dcm"}
    for name in (*files.values(), "results.zip"):
        (out / name).write_bytes(b"x")
    result = {"case": "P1", "files": files, "bytes": {}, "inputs": {}, "seconds": 1.0, "volumes_ml": {}, "warnings": []}
    assert jobs.store.finish(found, "done", result=result)
    real_own, real_files = jobs.own, jobs.files

    def removing(real: Any) -> Any:
        def call(*given: Any) -> Any:
            told = real(*given)
            jobs.remove(found)
            return told

        return call

    of_files = "/files/" in path
    monkeypatch.setattr(jobs, "files" if of_files else "own", removing(real_files if of_files else real_own))
    answer = client.request(method, f"/v1/cases/{found}{path}")
    fine(answer)
    assert answer.status_code in ((200,) if (method, path) == ("GET", "") else (404, 409, 422))
    assert str(jobs.settings.data) not in answer.text
