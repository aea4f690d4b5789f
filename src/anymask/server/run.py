"""Serving the app alone: a socket, a token where others can reach it, and uvicorn."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import uvicorn
from fastapi import FastAPI

from anymask.errors import AnymaskError
from anymask.server.security import LOOPBACK_HOSTS


@dataclass(frozen=True)
class Address:
    """Where a server listens, who may ask, and the URL to open; made before the app, so that a taken port is told at
    once.
    """

    socket: socket.socket
    token: str | None
    allowed_hosts: tuple[str, ...]
    url: str


def listen(host: str, port: int, token: str | None = None, allowed_hosts: Sequence[str] = ()) -> Address:
    """Take a port (0: any free one). Beyond loopback a token is made unless one is given.

    allowed_hosts: further names for the Host header. Raises AnymaskError when the port cannot be had.
    """
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        taken = socket.socket(family, socket.SOCK_STREAM)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(place)
    except (OSError, OverflowError) as error:
        raise AnymaskError(f"cannot listen at host {host!r}, port {port} ({error}); try another --port") from error
    bound_host, bound_port = taken.getsockname()[:2]
    ip = ipaddress.ip_address(bound_host.partition("%")[0])
    if token is None and not ip.is_loopback:
        token = secrets.token_urlsafe(24)
    # A token is a better guard than names that nobody can list: the machine's own, its numbers, a proxy's.
    hosts = (*LOOPBACK_HOSTS, *allowed_hosts) if ip.is_loopback or allowed_hosts else ("*",)
    shown = host if not ip.is_unspecified else socket.gethostname()
    shown = f"[{shown}]" if ":" in shown else shown
    query = f"?token={token}" if token is not None else ""
    return Address(taken, token, hosts, f"http://{shown}:{bound_port}/{query}")


def serve(app: FastAPI, address: Address, on_start: Callable[[], None] = lambda: None) -> None:
    """Answer until interrupted; `on_start` is called when the first request can come."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        # More at once are refused with 503 rather than queued without end.
        limit_concurrency=256,
        timeout_graceful_shutdown=5,
    )
    address.socket.listen(128)
    on_start()
    uvicorn.Server(config).run(sockets=[address.socket])
