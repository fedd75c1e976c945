"""Real proxies in front of a server: started with a configuration of a test's, and ended."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CADDY = shutil.which("caddy")
HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
PATIENCE = 20.0

HAPROXY_BASE = """
global
    maxconn 1000
defaults
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout tunnel 1h
    retries 3
    option redispatch 1
"""

NGINX_BASE = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
{http}
}}
"""


CADDY_BASE = """
{{
    admin off
    auto_https off
    storage file_system {folder}/caddy
}}
{site}
"""


def free_port() -> int:
    """A port nobody has; another may take it before we do, which has not been seen."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def haproxy(folder: Path, configuration: str, port: int) -> Iterator[None]:
    """HAProxy with `configuration` behind the base; ready when `port` is open."""
    assert HAPROXY is not None
    path = folder / "haproxy.cfg"
    path.write_text(HAPROXY_BASE + configuration)
    with _running([HAPROXY, "-db", "-f", str(path)], port):
        yield


@contextmanager
def nginx(folder: Path, http: str, port: int) -> Iterator[None]:
    """nginx with `http` inside its http block; ready when `port` is open."""
    assert NGINX is not None
    path = folder / "nginx.conf"
    path.write_text(NGINX_BASE.format(folder=folder, http=http))
    with _running([NGINX, "-c", str(path), "-p", str(folder), "-e", str(folder / "start.log")], port):
        yield


@contextmanager
def caddy(folder: Path, site: str, port: int) -> Iterator[None]:
    """Caddy with `site` behind the global options; ready when `port` is open."""
    assert CADDY is not None
    path = folder / "Caddyfile"
    path.write_text(CADDY_BASE.format(folder=folder, site=site))
    with _running([CADDY, "run", "--adapter", "caddyfile", "--config", str(path)], port, XDG_CONFIG_HOME=str(folder)):
        yield


@contextmanager
def _running(command: list[str], port: int, **environ: str) -> Iterator[None]:
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **environ}
    )
    with process:
        try:
            end = time.monotonic() + PATIENCE
            while not _open(port):
                if process.poll() is not None or time.monotonic() > end:
                    process.kill()
                    raise AssertionError(f"{command[0]} did not start:\n{process.communicate()[0]}")
                time.sleep(0.02)
            yield
        finally:
            process.terminate()
            try:
                process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def _open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
