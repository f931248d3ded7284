"""The address of a server: a socket that listens, and who has it if it is taken."""

import errno
import os
import socket
from pathlib import Path

LOCAL = ("127.0.0.1", "localhost", "::1")
_EVERYWHERE = ("0.0.0.0", "::", "")
_LISTENS = "0A"  # state of a socket in /proc/net/tcp


def check_address(host: str, token: str | None) -> None:
    """Refuse to listen to other machines without a token.

    Raises:
        ValueError: if they could connect and there is none.
    """
    if host not in LOCAL and token is None:
        raise ValueError(f"other machines could use a server on {host}: give it a token (--token-file)")


def listen(host: str, port: int) -> socket.socket:
    """A socket, so that a taken port is known before a model is loaded.

    Raises:
        ValueError: if the address cannot be had; says who has the port where that is known.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(256)
    except OSError as error:
        listening.close()
        why = error.strerror
        if error.errno == errno.EADDRINUSE:
            why = f"it is taken by another program{holder_of(port)}"
        raise ValueError(f"cannot listen on {host}, port {port}: {why}") from error
    return listening


def address_of(host: str, listening: socket.socket) -> str:
    """Where a browser on this machine finds it."""
    name = "127.0.0.1" if host in _EVERYWHERE else f"[{host}]" if ":" in host else host
    return f"http://{name}:{listening.getsockname()[1]}"


def holder_of(port: int) -> str:
    """Such as `, python (process 4711)`; "" where the system does not tell."""
    sockets = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = [row.split() for row in Path(table).read_text().splitlines()[1:]]
        except OSError:
            continue
        for row in rows:
            if row[3] == _LISTENS and int(row[1].rpartition(":")[2], 16) == port:
                sockets.add(f"socket:[{row[9]}]")
    if not sockets:
        return ""
    for process in sorted(int(one) for one in os.listdir("/proc") if one.isdecimal()):
        try:
            held = {os.readlink(file) for file in Path(f"/proc/{process}/fd").iterdir()}
            if sockets & held:
                name = Path(f"/proc/{process}/comm").read_text().strip()
                return f", {name} (process {process})"
        except OSError:  # it ended meanwhile, a file was closed, or it is somebody else's
            continue
    return ""
