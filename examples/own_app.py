"""An app of one's own: four files in, a label map and volumes out. `rediff serve` has a queue, tokens and a page.

BUNDLE=path uvicorn --app-dir examples own_app:app        # without BUNDLE the default one
"""

import os
import sys
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, HTTPException, Response, UploadFile

from rediffinet import Segmenter, load_case
from rediffinet.errors import CaseError, CaseStoppedError
from rediffinet.io.outputs import encode_result

stopping = threading.Event()
one_at_a_time = threading.Lock()  # segment is thread-safe; two cases at once would only share the cores


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the bundle in the process that serves: an engine does not survive a fork."""
    with Segmenter.open(os.environ.get("BUNDLE")) as segmenter:
        app.state.segmenter = segmenter
        yield
        stopping.set()  # what is being computed ends at the next window


app = FastAPI(lifespan=lifespan)


@app.post("/segment")
def segment(t1n: UploadFile, t1c: UploadFile, t2w: UploadFile, t2f: UploadFile) -> Response:
    """The label map as .nii.gz, volumes in a header. A `def`, so that it runs in a thread and the loop goes on."""
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for contrast, upload in {"t1n": t1n, "t1c": t1c, "t2w": t2w, "t2f": t2f}.items():
            files[contrast] = Path(folder) / f"{contrast}.nii.gz"
            with files[contrast].open("wb") as stream:
                while block := upload.file.read(2**20):
                    stream.write(block)
        try:
            case = load_case(files=files, name="case")
            with one_at_a_time:
                result = app.state.segmenter.segment(case, cancelled=stopping.is_set, deadline_s=300)
        except CaseError as error:
            raise HTTPException(422, str(error).replace(f"{folder}/", "")) from None  # where it lay is ours
        except CaseStoppedError as error:
            raise HTTPException(503, str(error)) from None
    volumes = result.report.to_dict()["volumes_ml"]["refined"]
    headers = {"X-Volumes-Ml": ", ".join(f"{region}={ml:.2f}" for region, ml in volumes.items())}
    return Response(encode_result(result)["case-seg.nii.gz"], media_type="application/gzip", headers=headers)


if __name__ == "__main__":
    sys.stderr.write("usage: [BUNDLE=path] uvicorn --app-dir examples own_app:app\n")
    sys.exit(2)
