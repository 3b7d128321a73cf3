"""The API: a FastAPI application over `Jobs`."""

import asyncio
import errno
import shutil
import sqlite3
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Header, Query, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.staticfiles import StaticFiles

from rediffinet.clinic.service.computing import RESULTS, forget_received
from rediffinet.clinic.service.description import (
    CaseInfo,
    CaseList,
    Stored,
    binary,
    put_examples,
    request_body,
    said,
)
from rediffinet.clinic.service.gate import Gate
from rediffinet.clinic.service.jobs import NO_CASE, Jobs, ended, iso
from rediffinet.clinic.service.logs import log_error
from rediffinet.clinic.service.measures import Measures
from rediffinet.clinic.service.problems import MEDIA_TYPE, Problem, in_fields, problem
from rediffinet.clinic.service.requests import FIELDS
from rediffinet.clinic.service.settings import LOOPBACK
from rediffinet.clinic.service.supervisor import Supervisor
from rediffinet.clinic.service.tokens import TokenFile
from rediffinet.clinic.service.uploads import receive, skip
from rediffinet.clinic.viewer.corrections import Origin, save_correction
from rediffinet.clinic.viewer.server import DIST, content_type, scene_bytes
from rediffinet.errors import ChangedError, OutputError, RediffError, TooManyError

INTENDED_USE = "Research use only, not a medical device. No clinical decision may rest on its output."

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a full disk says, one of which the service has its share already, and one that takes no file of that size."""
FULL = problem(507, "The disk of the service is full. Nothing was kept; try again later.")

# it describes alone: the Gate, below every route, is what asks for the token
TOKEN = HTTPBearer(
    scheme_name="token",
    description="Of `rediff serve --new-token`; also as the password of HTTP Basic, with any name. Not asked for on "
    "loopback as long as the service has none, nor with `--without-token`.",
    auto_error=False,
)


def create_app(jobs: Jobs, tokens: TokenFile, supervisor: Supervisor, version: str) -> FastAPI:
    """The application. Everything it needs is given; it starts nothing."""
    app = FastAPI(
        title="rediff serve",
        version=version,
        summary="Brain-tumour segmentation over HTTP.",
        description=INTENDED_USE,
        docs_url=None,
        redoc_url=None,
        openapi_url="/v1/openapi.json",
    )
    measures = Measures(jobs, supervisor)
    registry = CollectorRegistry(auto_describe=True)
    measures.register(registry)
    local = jobs.settings.host in LOOPBACK
    app.add_middleware(Gate, tokens=tokens, local=local, count=measures.count)

    guarded = APIRouter(dependencies=[Security(TOKEN)])
    generated = app.openapi
    app.openapi = lambda: put_examples(generated())  # type: ignore[method-assign]

    def removed(request: Request) -> bool:
        """Whether the case that is asked about was removed since it was looked up."""
        case_id = request.path_params.get("case_id")
        return case_id is not None and jobs.store.get(case_id) is None

    @app.exception_handler(Problem)
    async def _problem(_: Request, error: Problem) -> Response:
        return _answer(error.to_dict(), error.headers)

    @app.exception_handler(RediffError)
    async def _refused(request: Request, error: RediffError) -> Response:
        if removed(request):
            return _answer(problem(404, NO_CASE), {})
        if isinstance(error, OutputError):  # its text names folders of the service
            return _answer(problem(507, "The file could not be written. Nothing was kept; try again later."), {})
        return _answer(problem(422, in_fields(str(error))), {})

    @app.exception_handler(FileNotFoundError)
    async def _missing(request: Request, error: FileNotFoundError) -> Response:
        if removed(request):
            return _answer(problem(404, NO_CASE), {})
        raise error

    @app.exception_handler(sqlite3.OperationalError)
    async def _store(_: Request, error: sqlite3.OperationalError) -> Response:
        log_error("the store cannot be written", error)
        if "full" in str(error):
            return _answer(FULL, {})
        return _answer(problem(503, "The service cannot write its list of cases. Try again later."), {})

    @app.exception_handler(OSError)
    async def _disk(_: Request, error: OSError) -> Response:
        if error.errno in NO_ROOM:
            return _answer(FULL, {})
        raise error

    @app.exception_handler(HTTPException)
    async def _http(_: Request, error: HTTPException) -> Response:
        detail = {404: "There is nothing at this address.", 405: "This address takes other methods."}
        told = detail.get(error.status_code, str(error.detail))
        return _answer(problem(error.status_code, told), dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "request"
        return _answer(problem(422, f"{where}: {first['msg']}."), {})

    @guarded.post(
        "/v1/cases",
        status_code=202,
        response_model=CaseInfo,
        summary="Send a case",
        description="The four images, or an archive of them or of DICOM. An Idempotency-Key makes it safe to repeat.",
        responses={
            200: {"model": CaseInfo, "description": "A case of this Idempotency-Key is there already"},
            **said(400, 401, 403, 408, 413, 415, 422, 429, 507),
        },
        openapi_extra={"requestBody": request_body()},
    )
    async def post_case(
        request: Request, idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None
    ) -> Response:
        owner = request.state.owner
        if idempotency_key is not None:
            known = await run_in_threadpool(jobs.store.find, owner, idempotency_key)
            if known is not None:
                await skip(request, jobs.settings.limits)
                return _case(jobs, known, 200)
        await run_in_threadpool(jobs.admit)
        admitted = True
        job_id, folder = jobs.new_folder()
        try:
            received = await receive(request, folder / "in", jobs.settings.limits, FIELDS)
            job, new = await run_in_threadpool(jobs.accept, job_id, folder, received, owner, idempotency_key)
            admitted = False
        finally:
            if admitted:
                jobs.leave()
                shutil.rmtree(folder, ignore_errors=True)
        return _case(jobs, job, 202 if new else 200)

    @guarded.get("/v1/cases", response_model=CaseList, summary="List cases", responses=said(401, 403, 422))
    def list_cases(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=500, description="At most this many.")] = 50,
        before: Annotated[int | None, Query(ge=0, lt=2**62, description="`next` of an earlier answer.")] = None,
    ) -> dict[str, Any]:
        found = jobs.store.newest(request.state.owner, limit + 1, before)
        following = found[limit - 1].seq if len(found) > limit else None
        return {"cases": [jobs.describe(job) for job in found[:limit]], "next": following, "accepts": True}

    @guarded.get(
        "/v1/cases/{case_id}",
        response_model=CaseInfo,
        summary="State of a case",
        responses=said(401, 403, 404, 422),
    )
    def get_case(request: Request, case_id: str) -> dict[str, Any]:
        return jobs.describe(jobs.own(case_id, request.state.owner))

    @guarded.post(
        "/v1/cases/{case_id}/cancel",
        response_model=CaseInfo,
        summary="Cancel a case that waits or is computed",
        responses=said(401, 403, 404, 409, 422),
    )
    def cancel_case(request: Request, case_id: str) -> dict[str, Any]:
        jobs.own(case_id, request.state.owner)
        job = jobs.store.cancel(case_id)
        if job is None:
            raise Problem(404, NO_CASE)
        if ended(job) and job.state != "cancelled":
            raise Problem(409, f"The case is {job.state} already.")
        if ended(job):
            forget_received(jobs.settings.jobs / job.id)
        return jobs.describe(job)

    @guarded.post(
        "/v1/cases/{case_id}/store",
        response_model=Stored,
        summary="Send the DICOM objects of a finished case to the archive (STOW-RS); again is harmless",
        responses=said(401, 403, 404, 409, 422, 502),
    )
    def store_case(
        request: Request,
        case_id: str,
        uncorrected: Annotated[
            bool, Query(description="Also where the case has corrections, which its objects do not hold.")
        ] = False,
    ) -> dict[str, Any]:
        return {"stored": jobs.store_objects(jobs.own(case_id, request.state.owner), uncorrected=uncorrected)}

    @guarded.delete(
        "/v1/cases/{case_id}",
        status_code=204,
        response_class=Response,
        summary="Remove a case and all its files",
        responses=said(401, 403, 404, 409, 422),
    )
    def delete_case(request: Request, case_id: str) -> Response:
        job = jobs.own(case_id, request.state.owner)
        if job.state == "queued":
            jobs.store.cancel(case_id)
        if not jobs.remove(job.id):
            raise Problem(409, "The case is being computed. Cancel it first, and remove it when it has ended.")
        return Response(status_code=204)

    @guarded.get(
        "/v1/cases/{case_id}/files/{name}",
        response_class=FileResponse,
        summary="A file of a finished case; results.zip holds all that was written",
        responses={200: {"content": {"application/octet-stream": {}}}, **said(401, 403, 404, 409, 422, 507)},
    )
    def get_file(request: Request, case_id: str, name: str) -> Response:
        job = jobs.own(case_id, request.state.owner)
        if job.result is None:
            raise Problem(409, f"The case is {job.state}: it has no files.")
        if name == RESULTS:
            jobs.pack(job)
        path = jobs.files(job).get(name)
        if path is None or not path.is_file():
            raise Problem(404, "There is no such file of this case.")
        headers = {"cache-control": "private, no-cache"}
        saved_as = f"{job.result['case']}-{RESULTS}" if name == RESULTS else None  # of two cases, two names
        return FileResponse(path, 200, headers, content_type(name), filename=saved_as, stat_result=path.stat())

    @guarded.get(
        "/v1/cases/{case_id}/scene",
        summary="What the page shows of a finished case",
        responses=said(401, 403, 404, 409, 422),
    )
    def get_scene(request: Request, case_id: str) -> dict[str, Any]:
        job = jobs.own(case_id, request.state.owner)
        return {**jobs.scene(job).to_dict(), "created": iso(job.created)}

    @guarded.post(
        "/v1/cases/{case_id}/corrections",
        status_code=201,
        summary="Save a corrected label map beside the original",
        description="The body is the gzip of one byte per voxel, first axis fastest, in the order of the map `from`.",
        responses=said(401, 403, 404, 408, 409, 413, 422, 507),
        openapi_extra={
            "requestBody": {"required": True, "content": {"application/octet-stream": {"schema": binary("gzip")}}}
        },
    )
    async def post_correction(
        request: Request,
        case_id: str,
        origin: Annotated[str, Query(alias="from", max_length=300, description="The map that was corrected.")],
        sha256: Annotated[str, Query(max_length=64, description="SHA-256 of that map, as it was drawn on.")],
        who: Annotated[str, Query(max_length=200, description="Who corrected it.")],
        note: Annotated[str, Query(max_length=2000, description="Why.")] = "",
    ) -> dict[str, Any]:
        job = await run_in_threadpool(jobs.own, case_id, request.state.owner)
        scene = await run_in_threadpool(jobs.scene, job)
        body = bytearray()
        limit = scene_bytes(scene)
        try:
            async with asyncio.timeout(jobs.settings.limits.upload_s):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > limit:
                        raise Problem(413, f"Expected at most {limit} bytes: one byte per voxel, as gzip.")
        except TimeoutError:
            raise Problem(408, "The correction took too long to arrive. Nothing was saved; send it again.") from None
        except ClientDisconnect:
            raise Problem(499, "The client went away.") from None

        def save() -> dict[str, Any]:
            most, begun = jobs.settings.limits.corrections, Origin(file=origin, sha256=sha256)
            try:
                entry = save_correction(scene.folder, scene.report, begun, bytes(body), who=who, note=note, most=most)
            except ChangedError as error:
                raise Problem(409, str(error)) from None
            except TooManyError as error:  # where its folder is, is nothing to a client
                raise Problem(409, f"{error.found} Send the case again, as a new one, to go on.") from None
            return entry.model_dump(mode="json", by_alias=True)

        return await run_in_threadpool(save)

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", response_class=PlainTextResponse, summary="Whether the web process answers")
    def healthz() -> str:
        return "ok\n"

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", response_class=PlainTextResponse, summary="Whether cases are computed", responses=said(503))
    def readyz() -> str:
        jobs.store.counts()
        if not supervisor.ready:
            raise Problem(503, "The computing process is not ready: it starts, or died and is started again.")
        return "ready\n"

    @guarded.head("/metrics", include_in_schema=False)
    @guarded.get("/metrics", response_class=PlainTextResponse, summary="For Prometheus", responses=said(401, 403))
    def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    app.include_router(guarded)
    if (DIST / "index.html").is_file():
        app.mount("/", StaticFiles(directory=DIST, html=True), name="page")
    return app


def _case(jobs: Jobs, job: Any, status: int) -> JSONResponse:
    return JSONResponse(jobs.describe(job), status, {"location": f"/v1/cases/{job.id}"})


def _answer(content: dict[str, Any], headers: dict[str, str]) -> Response:
    # a body may be unread, and what follows it on the connection is no request
    closing = {"connection": "close"} if content["status"] in (400, 408, 411, 413, 415, 422, 429, 507) else {}
    return JSONResponse(content, content["status"], {**closing, **headers}, MEDIA_TYPE)
