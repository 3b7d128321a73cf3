"""Who looks after the computing process: starts it, starts it again when it died, ends it when it hangs."""

import multiprocessing
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from rediffinet.clinic.service.logs import log
from rediffinet.clinic.service.settings import Settings
from rediffinet.clinic.service.store import JobStore
from rediffinet.clinic.service.worker import work
from rediffinet.lean import spawn

READY = "ready"
LONGEST_PAUSE_S = 30.0
LOOK_S = 0.2


class Supervisor:
    """One computing process, watched from a thread of the web process.

    fatal: called with the message when the process cannot start because of something the operator can mend.
    """

    def __init__(self, settings: Settings, store: JobStore, fatal: Callable[[str], None]) -> None:
        self._settings = settings
        self._store = store
        self._fatal = fatal
        self._ending = threading.Event()
        self._process: SpawnProcess | None = None
        self.ready = False
        self.restarts = 0
        self._thread = threading.Thread(target=self._run, daemon=True, name="supervisor")

    def start(self) -> None:
        """Start the process."""
        self._thread.start()

    def stop(self, grace_s: float = 20.0) -> None:
        """Tell the process to put its case back and end; after the grace it is killed, which loses nothing either."""
        self._ending.set()
        process = self._process
        if process is not None and process.is_alive():
            process.terminate()
        self._thread.join(grace_s)
        if process is not None and process.is_alive():
            process.kill()
            process.join()
        self.ready = False

    def _run(self) -> None:
        pause = 0.5
        while not self._ending.is_set():
            begun = time.monotonic()
            code = self._live()
            self.ready = False
            if self._ending.is_set() or code == 2:
                return
            self.restarts += 1
            log("computing process died", "error", exit_code=code)
            pause = 0.5 if time.monotonic() - begun > 60.0 else min(2 * pause, LONGEST_PAUSE_S)
            self._ending.wait(pause)

    def _live(self) -> int | None:
        """Start the process and watch it to its end; returns its exit code."""
        ours, theirs = multiprocessing.Pipe()
        process = spawn(work, self._settings, connection=theirs, name="rediff-computing")
        theirs.close()
        self._process = process
        if self._ending.is_set():
            process.terminate()
        watched: tuple[str, float] | None = None
        while process.is_alive():
            self._hear(ours)
            watched = self._end_when_stuck(process, watched)
            wait([process.sentinel] if self.ready else [process.sentinel, ours], LOOK_S)
        self._hear(ours)
        ours.close()
        return process.exitcode

    def _hear(self, ours: Connection) -> None:
        try:
            while ours.poll():
                said = ours.recv()
                if said == READY:
                    self.ready = True
                    log("computing process is ready")
                else:
                    self._fatal(str(said))
        except (EOFError, OSError):
            return

    def _end_when_stuck(self, process: SpawnProcess, watched: tuple[str, float] | None) -> tuple[str, float] | None:
        """Kill a process that is past a case's time and does not look at the deadline any more."""
        running = self._store.running() if self.ready else []
        if not running:
            return None
        if watched is None or watched[0] != f"{running[0].id}/{running[0].attempts}":
            return f"{running[0].id}/{running[0].attempts}", time.monotonic()
        if time.monotonic() - watched[1] > 1.5 * self._settings.limits.case_s + 30.0:
            log("computing process hangs and is killed", "error", id=running[0].id)
            process.kill()
        return watched
