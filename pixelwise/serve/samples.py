"""Photographs to begin with: they come with scikit-image, whose README tells where they are from."""

from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse, JSONResponse, Response

from .problems import Problem

NAMES = ("coffee.png", "chelsea.png", "astronaut.png", "coins.png")


def sample_routes() -> APIRouter:
    """The routes under `/v1/samples`."""
    import skimage.data

    folder = Path(skimage.data.__file__).parent
    found = [folder / name for name in NAMES if (folder / name).is_file()]
    routes = APIRouter()

    @routes.get("/v1/samples", summary="Images to begin with")
    async def list_samples() -> Response:
        return JSONResponse({"samples": [{"number": i, "name": p.name} for i, p in enumerate(found)]})

    @routes.get("/v1/samples/{number}", summary="One of them")
    async def one_sample(number: str) -> Response:
        if number not in map(str, range(len(found))):
            raise Problem("no-such-image", f"there are {len(found)} samples, numbered from 0")
        return FileResponse(found[int(number)], media_type="image/png")

    return routes
