"""`kill -9` of a service at random moments while clients send: every case that was taken is done once, or says why not.

REDIFF_KILLS says how often (default 5, for an hour or two 200), REDIFF_KILLS_S for how many seconds at most.
"""

import os
import random
import signal
import threading
import time
import zipfile
from collections import Counter
from io import BytesIO
from typing import Any

import pytest

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("REDIFF_KILLS", "5"))
LONGEST_S = float(os.environ.get("REDIFF_KILLS_S", "inf"))


def test_no_case_is_lost_or_doubled_however_often_the_service_is_killed(service: Any, images: dict[str, bytes]) -> None:
    taken: dict[str, set[str]] = {}  # the ids that each key was answered with
    done = threading.Event()

    def client(number: int) -> None:
        """Sends one case after another, each again with its key until it was taken."""
        count = 0
        while not done.is_set():
            key = f"{number}-{count}"
            try:
                answer = service.send(images, {"idempotency-key": key}, name=key)
            except service.httpx.TransportError:
                time.sleep(0.2)
                continue
            if answer.status_code in (200, 202):
                taken.setdefault(key, set()).add(answer.json()["id"])
                count += 1
            time.sleep(0.5 if answer.status_code == 429 else 0.05)

    service.start("--queue", "8")
    clients = [threading.Thread(target=client, args=(number,)) for number in range(2)]
    for one in clients:
        one.start()
    chance = random.Random(20)
    begun, kills = time.monotonic(), 0
    try:
        while kills < KILLS and time.monotonic() - begun < LONGEST_S:
            time.sleep(chance.uniform(0.0, 4.0))
            service.end(signal.SIGKILL)
            kills += 1
            service.start("--queue", "8")
    finally:
        done.set()
        for one in clients:
            one.join()
    assert taken
    assert all(len(ids) == 1 for ids in taken.values()), taken  # a key is one case, before and after a kill
    ids = [next(iter(ids)) for ids in taken.values()]
    assert len(set(ids)) == len(ids)
    for key, (case_id,) in taken.items():
        case = service.wait(case_id, seconds=900.0)
        assert case["case"] == key
        if case["state"] == "failed":  # it was being computed at two of the kills
            assert "2 times" in case["problem"]["detail"]
            continue
        assert case["state"] == "done", case
        content = service.client.get(f"/{case['result']['zip']}").content
        with zipfile.ZipFile(BytesIO(content)) as packed:
            assert packed.testzip() is None and f"{key}-seg.nii.gz" in packed.namelist()
    # a case whose answer was lost in a kill is there too, under a key that was sent again: never more than were asked
    listed, before = [], None
    while not listed or before is not None:
        page = service.client.get("/v1/cases", params={"limit": 500} | ({"before": before} if before else {})).json()
        listed += page["cases"]
        before = page["next"]
    print(f"{kills} kills, {len(taken)} cases taken, {len(listed)} listed: {Counter(case['state'] for case in listed)}")
    names = [case["case"] for case in listed]
    assert len(set(names)) == len(names)
    assert set(taken) <= set(names)
    assert {path.name for path in (service.data / "cases").iterdir()} == {case["id"] for case in listed}
