"""The web process, from its lock to its last answer."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from importlib.metadata import version

import uvicorn
from fastapi import FastAPI

from rediffinet.bundle import open_bundle
from rediffinet.clinic.interrupt import Interrupted
from rediffinet.clinic.lock import held
from rediffinet.clinic.service.app import create_app
from rediffinet.clinic.service.jobs import Jobs
from rediffinet.clinic.service.logs import lines_of_json, log, log_error
from rediffinet.clinic.service.protocol import PunctualProtocol
from rediffinet.clinic.service.settings import Settings, private_folder
from rediffinet.clinic.service.store import JobStore
from rediffinet.clinic.service.supervisor import Supervisor
from rediffinet.clinic.service.tokens import TokenFile
from rediffinet.errors import ConfigError

EXPIRE_EVERY_S = 60.0
GRACE_S = 20


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM. A case that is being computed then is queued again, and done after the next start.

    Raises ConfigError for a service that would be open to all, a port that is taken, a folder that another uses, or
    whatever keeps the bundle from running; BundleError.
    """
    tokens = TokenFile(settings.tokens)
    settings.check(has_tokens=not tokens.now().open)
    manifest = open_bundle(settings.bundle).manifest  # whole, before an address is told
    os.umask(0o077)  # of what a patient's images become, in every process
    private_folder(settings.data)
    fatal: list[str] = []
    with held(settings.data / "service.lock"), lines_of_json() as say:
        store = JobStore(settings.database)
        jobs = Jobs(settings, store, manifest)
        jobs.tidy()

        def stop(message: str) -> None:
            fatal.append(message)
            server.should_exit = True

        supervisor = Supervisor(settings, store, stop)
        app = create_app(jobs, tokens, supervisor, version("rediffinet"))
        app.router.lifespan_context = _lifespan(jobs, supervisor)
        server = _Server(
            say,
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
            ),
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


class _Server(uvicorn.Server):
    """Says where it listens as soon as it does: a port of 0 is another one by then."""

    def __init__(self, say: Callable[[str], None], config: uvicorn.Config) -> None:
        super().__init__(config)
        self._say = say

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        if self.started:
            host, port = self.config.host, self.servers[0].sockets[0].getsockname()[1]
            log("service begins", host=host, port=port)
            self._say(f"http://{f'[{host}]' if ':' in host else host}:{port}/")


def _lifespan(jobs: Jobs, supervisor: Supervisor) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        supervisor.start()
        expiring = asyncio.create_task(_expire(jobs))
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
