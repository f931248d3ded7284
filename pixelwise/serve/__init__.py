"""An HTTP server for trained models, a page to try them, and a client (extra `pixelwise[serve]`)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import lock_folder, make_folder
from .limits import Limits as Limits

if TYPE_CHECKING:
    from ..types import ClassTable
    from .collection import Collection

    CollectionOf = Callable[["ClassTable | None"], Collection]

_ANY = ("0.0.0.0", "::", "")


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
    collection: "CollectionOf | None" = None,
    save_to: Path | None = None,
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
        collection: makes the images to walk through, given the classes of the first model that has classes.
        save_to: folder for labels, which this process holds alone while it runs.
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
    from .model_thread import ModelThread
    from .served import load_served

    local = host in ("127.0.0.1", "localhost", "::1")
    if not local and token is None:
        raise ValueError(f"other machines could use a server on {host}: give it a token (--token-file)")
    limits = limits or Limits()
    with ExitStack() as stack:
        if save_to is not None:
            stack.enter_context(lock_folder(make_folder(save_to)))
        listening = stack.enter_context(_listening(host, port))
        thread = ModelThread(limits)
        models = [load_served(path, thread, limits, **options) for path in runs]
        classes = next((one.predictor.classes for one in models if not one.promptable), None)
        images = None if collection is None else collection(classes)
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
            collection=images,
        )
        config = uvicorn.Config(
            app,
            log_level="warning",
            timeout_graceful_shutdown=max(1, round(drain)),
            server_header=False,
            h11_max_incomplete_event_size=65536,
        )
        where = f"http://{'127.0.0.1' if host in _ANY else host}:{listening.getsockname()[1]}"
        names = ", ".join(one.name for one in models)
        print(f"pixelwise serves {names} on {where} (Ctrl-C stops)", flush=True)
        if opened is not None:
            opened(where)
        server = uvicorn.Server(config)
        server.capture_signals = lambda: _stopping(server)  # type: ignore[method-assign]
        server.run(sockets=[listening])


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


def _listening(host: str, port: int) -> Any:
    """A socket, so that a taken port is known before a model is loaded."""
    import socket

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(256)
    except OSError as error:
        listening.close()
        why = "it is taken by another program" if error.errno == 98 else error.strerror
        raise ValueError(f"cannot listen on {host}, port {port}: {why}") from error
    return listening


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
