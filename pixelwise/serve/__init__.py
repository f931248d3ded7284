"""An HTTP server for trained models, a page to try them, and a client (extra `pixelwise[serve]`)."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import lock_folder, make_folder
from .limits import Limits as Limits

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ..types import ClassTable
    from .collection import Collection
    from .workers import Among

    CollectionOf = Callable[["ClassTable | None"], Collection]


def serve(
    runs: Sequence[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    origins: Sequence[str] = (),
    limits: Limits | None = None,
    size: int = 512,
    drain: float = 30.0,
    allow_any_host: bool = False,
    images_of_tasks: Path | None = None,
    among: "Among | None" = None,
    collection: "CollectionOf | None" = None,
    save_to: Path | None = None,
    reports: Sequence[Path] = (),
    opened: Callable[[str], object] | None = None,
    **options: Any,
) -> None:
    """Serve models until the process is told to stop.

    Beside them there is always one called `grabcut`, which cuts out what is clicked without any weights.

    Args:
        runs: checkpoints, run directories or exported files; none where images are only labelled.
        host: address to listen on.
        port: to listen on; 0 for one that is free.
        token: that clients must send; needed wherever other machines can connect.
        origins: of pages from elsewhere that may use the interface.
        limits: what is taken at once.
        size: height and width in pixels of the images that the models are warmed up with.
        drain: seconds that requests under way have when the server stops.
        allow_any_host: whether to answer under whatever name; always so with a token.
        images_of_tasks: folder with the images of Label Studio's tasks; None without its routes.
        among: what this process is given if it is one of several; see `workers.serve_in_processes`.
        collection: makes the images to walk through, given the classes of the first model that has classes.
        save_to: folder for labels, which this process holds alone while it runs.
        reports: HTML files of evaluations and comparisons, which lead to the images on the page.
        opened: called with the address of the page once it is there.
        options: of the `Predictor`s, such as `device`.

    Raises:
        ValueError: if the extra is missing, a model cannot be read, the address is taken, or another machine
            could connect and there is no token; or another process saves to `save_to`.
    """
    check_serving()
    import uvicorn

    from .app import _LOCAL, create_app
    from .cut import CutServed
    from .listening import address_of, check_address, listen
    from .model_thread import ModelThread
    from .served import load_served

    check_address(host, token)
    limits = limits or Limits()
    with ExitStack() as stack:
        if save_to is not None:
            stack.enter_context(lock_folder(make_folder(save_to)))
        listening = stack.enter_context(listen(host, port) if among is None else among.listening)
        thread = ModelThread(limits)
        models = [load_served(path, thread, limits, **options) for path in runs]
        if among is not None and (asked := [one.name for one in models if one.promptable]):
            raise ValueError(f"{asked[0]} takes prompts, and one process remembers its images: --workers 1")
        classes = next((one.predictor.classes for one in models if not one.promptable), None)
        images = None if collection is None else collection(classes)
        if among is None:  # it takes prompts too
            models.append(CutServed(thread, limits))
        hosts = None if allow_any_host or token is not None else _LOCAL
        app = create_app(
            models,
            thread,
            limits=limits,
            token=token,
            hosts=hosts,
            origins=origins,
            size=size,
            drain=drain,
            warm_first=among is not None,
            images_of_tasks=images_of_tasks,
            collection=images,
            reports=reports,
        )
        config = uvicorn.Config(
            app,
            log_level="warning",
            timeout_graceful_shutdown=max(1, round(drain)),
            server_header=False,
            h11_max_incomplete_event_size=65536,
        )
        names = ", ".join(one.name for one in models)
        where = address_of(host, listening)
        line = f"pixelwise serves {names} on {where} (Ctrl-C stops)"
        if among is None:
            print(line, flush=True)
        else:
            among.told(line)
        if opened is not None:
            opened(where)
        server = uvicorn.Server(config)
        server.capture_signals = lambda: _stopping(server)  # type: ignore[method-assign]
        server.run(sockets=[listening])
    if thread.alive:
        # Python cannot end while a thread computes: it would wait for it, or crash.
        print(f"the model was still busy {drain:g} s after the stop", file=sys.stderr, flush=True)
        os._exit(1)


def application(
    runs: Sequence[str],
    *,
    token: str | None = None,
    limits: Limits | None = None,
    size: int = 512,
    drain: float = 30.0,
    **options: Any,
) -> "FastAPI":
    """The routes of `serve` as an ASGI application, for what runs such applications, such as Ray Serve.

    It answers under whatever name, nothing before it is warmed up, and shows no images to label: those need
    one process.

    Args:
        runs: checkpoints, run directories or exported files.
        token: that clients must send; None if who may connect is seen to elsewhere.
        limits: what is taken at once.
        size: height and width in pixels of the images that the models are warmed up with.
        drain: seconds that requests under way have when the application stops.
        options: of the `Predictor`s, such as `device`.

    Raises:
        ValueError: if the extra is missing, a model cannot be read, or it takes prompts, whose images are
            remembered by one process.
    """
    check_serving()
    from .app import create_app
    from .model_thread import ModelThread
    from .served import load_served

    limits = limits or Limits()
    thread = ModelThread(limits)
    models = [load_served(path, thread, limits, **options) for path in runs]
    if asked := [one.name for one in models if one.promptable]:
        thread.stop(0)
        raise ValueError(f"{asked[0]} takes prompts, and one process remembers its images: use `serve`")
    given: dict[str, Any] = {"limits": limits, "token": token, "size": size, "drain": drain}
    return create_app(models, thread, hosts=None, warm_first=True, **given)


def check_serving() -> None:
    """Refuse to begin what would end without the extra.

    Raises:
        ValueError: if it is missing.
    """
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ValueError("serving needs the extra: pip install 'pixelwise[serve]'") from error


@contextmanager
def _stopping(server: Any) -> Iterator[None]:
    """Ctrl-C and SIGTERM stop the server once what is under way is answered; that is no failure.

    uvicorn's own handlers raise the signal again at the end.
    """
    import signal

    known = (signal.SIGINT, signal.SIGTERM)
    before = {one: signal.signal(one, server.handle_exit) for one in known}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def read_token(path: Path) -> str:
    """The token in a file.

    Raises:
        ValueError: if the file cannot be read, or holds fewer than 16 characters.
    """
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the token in {path}: {error}") from error
    if len(token) < 16 or not token.isascii():
        raise ValueError(f"{path} must hold a token of at least 16 ASCII characters")
    return token
