"""The web process, from its lock to its last answer."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from importlib.metadata import version

import uvicorn
from fastapi import FastAPI

from rediffinet.clinic.interrupt import Interrupted
from rediffinet.clinic.lock import held
from rediffinet.clinic.service.app import create_app
from rediffinet.clinic.service.jobs import Jobs
from rediffinet.clinic.service.logs import log, log_error
from rediffinet.clinic.service.protocol import PunctualProtocol
from rediffinet.clinic.service.settings import Settings
from rediffinet.clinic.service.store import JobStore
from rediffinet.clinic.service.supervisor import Supervisor
from rediffinet.clinic.service.tokens import read_tokens
from rediffinet.errors import ConfigError

EXPIRE_EVERY_S = 60.0
GRACE_S = 20


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM. A case that is being computed then is queued again, and done after the next start.

    Raises ConfigError for a service that would be open to all, a port that is taken, a folder that another uses, or
    whatever keeps the bundle from running.
    """
    tokens = read_tokens(settings.tokens)
    settings.check(has_tokens=bool(tokens.names))
    fatal: list[str] = []
    with held(settings.data / "service.lock"):
        store = JobStore(settings.database)
        jobs = Jobs(settings, store)
        jobs.tidy()

        def stop(message: str) -> None:
            fatal.append(message)
            server.should_exit = True

        supervisor = Supervisor(settings, store, stop)
        app = create_app(jobs, tokens, supervisor, version("rediffinet"))
        app.router.lifespan_context = _lifespan(jobs, supervisor)
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                http=PunctualProtocol,
                log_config=None,
                access_log=False,
                server_header=False,
                limit_concurrency=256,
                timeout_keep_alive=15,
                timeout_graceful_shutdown=GRACE_S,
            )
        )
        try:
            server.run()
        except Interrupted:  # uvicorn raises the signal once more when all is said and done
            pass
        except SystemExit:  # how uvicorn says that the port is taken
            message = f"{settings.host}:{settings.port} cannot be listened on. Is the port taken? Give another `port`."
            raise ConfigError(message) from None
        finally:
            store.close()
    if fatal:
        raise ConfigError(fatal[0])
    if not server.started:
        raise ConfigError(f"{settings.host}:{settings.port} cannot be listened on. Give another `port` or `host`.")


def _lifespan(jobs: Jobs, supervisor: Supervisor) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        supervisor.start()
        expiring = asyncio.create_task(_expire(jobs))
        log("service begins", host=jobs.settings.host, port=jobs.settings.port)
        try:
            yield
        finally:
            expiring.cancel()
            with suppress(asyncio.CancelledError):
                await expiring
            await asyncio.to_thread(supervisor.stop)
            log("service ends")

    return lifespan


async def _expire(jobs: Jobs) -> None:
    while True:
        try:
            await asyncio.to_thread(jobs.expire)
        except Exception as error:
            log_error("removing old cases failed", error)
        await asyncio.sleep(EXPIRE_EVERY_S)
