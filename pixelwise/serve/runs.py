"""Routes of trainings: settings, history, pictures, and reports as HTML files."""

import asyncio
import contextlib
import html
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from starlette.responses import FileResponse, JSONResponse, Response

from .problems import Problem
from .served import Served

_KINDS = ("latest", "worst", "best")  # pictures of a run directory, by the beginning of their names
_LATELY = 3600.0  # seconds
_TITLE = re.compile(rb"<title>(.*?)</title>", re.DOTALL)
# A report has its style and its script inside; it may do nothing with this server but lead to the page.
_REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def run_routes(
    models: Sequence[Served], named: Callable[[str], Served], reports: Sequence[Path], pool: Executor
) -> APIRouter:
    """The routes under `/v1/runs` and `/v1/reports`.

    Args:
        models: what is served.
        named: the model of a name, or a problem.
        reports: HTML files of evaluations and comparisons; those of the runs are added as they appear.
        pool: threads that read files.
    """
    routes = APIRouter()

    async def apart(work: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(pool, work, *arguments)

    def all_reports() -> list[Path]:
        # Numbers stay the same when a training ends: a run has its place, whether its report is there or not.
        return [one.run / "report.html" for one in models if one.run is not None] + list(reports)

    @routes.get("/v1/runs/{model}", summary="Settings, history and pictures of the training")
    async def run_of(model: str) -> Response:
        return JSONResponse(await apart(_told, named(model).run))

    @routes.get("/v1/runs/{model}/pictures/{number}", summary="A picture of the training")
    async def picture(model: str, number: str) -> Response:
        run = named(model).run
        found = _pictures(run) if run is not None else []
        if not (number.isascii() and number.isdecimal() and len(number) < 10 and int(number) < len(found)):
            raise Problem("not-found", "there is no such picture")
        return Response(await apart(_content, found[int(number)]), media_type="image/png")

    @routes.get("/v1/reports", summary="Reports of trainings, evaluations and comparisons")
    async def list_reports() -> Response:
        told = []
        for number, path in enumerate(all_reports()):
            with contextlib.suppress(OSError):
                told.append({"number": number, "title": await apart(_title, path)})
        return JSONResponse({"reports": told})

    @routes.get("/v1/reports/{number}", summary="A report")
    async def report(number: str) -> Response:
        files = all_reports()
        if not (number.isascii() and number.isdecimal() and len(number) < 10 and int(number) < len(files)):
            raise Problem("not-found", "there is no such report")
        path = files[int(number)]
        if not path.is_file():
            raise Problem("not-found", "this report is gone, or not written yet")
        headers = {
            "Content-Security-Policy": _REPORT_POLICY,
            "Cross-Origin-Opener-Policy": "unsafe-none",  # browsers refuse a sandbox with any other
            "Cache-Control": "no-cache",
        }
        return FileResponse(path, media_type="text/html; charset=utf-8", headers=headers)

    return routes


def _told(run: Path | None) -> dict[str, Any]:
    """Settings, history and pictures of a run directory, as far as it has them."""
    told: dict[str, Any] = {
        "settings": None, "history": [], "pictures": [], "under_way": False, "gone": False,
    }  # fmt: skip
    if run is None:
        return told
    told["gone"] = not run.is_dir()
    with contextlib.suppress(OSError, ValueError):
        told["settings"] = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
    with contextlib.suppress(OSError, ValueError):
        names, *rows = (run / "metrics.csv").read_text(encoding="utf-8").splitlines()
        for row in rows:
            values = dict(zip(names.split(","), row.split(","), strict=True))
            told["history"].append({name: _number(value) for name, value in values.items()})
    for number, path in enumerate(_pictures(run)):
        with contextlib.suppress(OSError):
            kind = path.name.partition("_")[0]
            told["pictures"].append({"number": number, "kind": kind, "written": path.stat().st_mtime})
    told["under_way"] = _under_way(run, told["history"])
    return told


def _under_way(run: Path, history: Sequence[Mapping[str, float | None]]) -> bool:
    """Whether a training seems to go on: its scores are not there yet, and something was written lately."""
    if (run / "scores.json").exists():
        return False
    written = 0.0
    for name in ("recipe.json", "metrics.csv"):
        with contextlib.suppress(OSError):
            written = max(written, (run / name).stat().st_mtime)
    epoch = max((row.get("seconds") or 0.0 for row in history), default=0.0)
    return time.time() - written < max(_LATELY, 3 * epoch)


def _pictures(run: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        found = sorted((run / "pictures").glob("*_*.png"))
        return [path for path in found if path.name.partition("_")[0] in _KINDS]
    return []


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Problem("not-found", "this picture is gone") from error


def _title(path: Path) -> str:
    """What a report is called; its file's name if it does not say."""
    with path.open("rb") as file:
        found = _TITLE.search(file.read(2**12))
    return html.unescape(found[1].decode("utf-8", "replace")).strip()[:200] if found else path.name


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None
