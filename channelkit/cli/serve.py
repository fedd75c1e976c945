"""`channelkit serve module:handler`: a server, in this process or in several."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import anyio

from channelkit import ConfigError, Server
from channelkit import serve as serve_here
from channelkit.cli import places
from channelkit.cli.arguments import add_backend, seconds, whole
from channelkit.cli.last_resort import LastResort
from channelkit.config import Config, ServerOptions
from channelkit.observing.log_setup import LogSetup
from channelkit.responding import Handler
from channelkit.server.lifespan import lifespan_of
from channelkit.workers import load, run_workers, why
from channelkit.workers.early_signals import Early, ignore_the_rest, terminable

EPILOG = """\
Every other option of the server has its own argument too, by its name in channelkit.Config (max_body: --max-body);
docs/limits.md tells what each is for.  Times are seconds ("inf" switches one off), sizes bytes.
"""


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of the parser."""
    parser = commands.add_parser(
        "serve",
        help="serve a handler: channelkit serve module:handler",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", metavar="module:handler", help="the handler, such as chat:room for `room` in chat.py")
    parser.add_argument("--app-dir", default=".", help="where modules are looked for first (default: this folder)")
    parser.add_argument("--asgi", action="store_true", help="module:handler is an ASGI application")
    parser.add_argument("--workers", type=_count, default=1, metavar="N", help="processes (default: %(default)s)")
    parser.add_argument(
        "--worker-timeout",
        type=seconds,
        metavar="SECONDS",
        help="without a sign of life from a worker's event loop: then it tells where it stands still, and is replaced "
        '(default: 60; with --reload "inf", never: a breakpoint is silent too)',
    )
    parser.add_argument("--reload", action="store_true", help="replace the workers when a Python file changes")
    parser.add_argument("--reload-dir", action="append", metavar="DIR", help="watched for changes (default: --app-dir)")
    parser.add_argument(
        "--metrics",
        type=places.metrics_address,
        metavar="[IP:]PORT",
        help="where Prometheus finds the numbers of all workers together, at /metrics (IP: 127.0.0.1)",
    )
    logs = parser.add_argument_group("log lines, on stderr")
    logs.add_argument(
        "--log-level", default="info", choices=("debug", "info", "warning", "error"), help="(default: info)"
    )
    logs.add_argument("--log-style", default="text", choices=("text", "json"), help="(default: text)")
    logs.add_argument(
        "--access-log",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="a line for each request and each channel that is over",
    )
    add_backend(parser)
    places.add_to(parser)
    limits = parser.add_argument_group("options of the server")
    for name, keywords in _server_arguments():
        limits.add_argument(f"--{name.replace('_', '-')}", dest=f"server_{name}", default=argparse.SUPPRESS, **keywords)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serve until a signal; 1 if the handler cannot be found or served, or the server cannot listen."""
    logs = LogSetup(level=options.log_level, style=options.log_style, access=options.access_log)
    server_options = {name[7:]: value for name, value in vars(options).items() if name.startswith("server_")}
    try:
        server_options |= places.options_of(options)
        if options.reload_dir is not None and not options.reload:
            raise ConfigError("--reload-dir says what --reload watches, and there is no --reload")
        with terminable() as early:
            if _several(options):
                code = _in_workers(options, logs, server_options)
                ignore_the_rest()
                return code
            logs.apply()
            handler = load(options.target, options.app_dir, asgi=options.asgi)
            anyio.run(_serve, handler, server_options, early, backend=options.backend)
    except Exception as error:
        print(f"channelkit: {options.target} cannot be served: {why(error)}", file=sys.stderr)
        return 1
    return 0


async def _serve(handler: Handler, options: dict[str, Any], early: Early) -> None:
    last_resort = LastResort(Config(**options), lifespan=lifespan_of(handler, None) is not None)
    await serve_here(handler, task_status=_Started(early, last_resort), **options)
    ignore_the_rest()


class _Started:
    """The task status of `serve`."""

    def __init__(self, early: Early, last_resort: LastResort) -> None:
        self._early = early
        self._last_resort = last_resort

    def started(self, value: Server | None = None) -> None:
        self._early.served = True
        self._last_resort.stand_by()


def _several(options: argparse.Namespace) -> bool:
    """Whether there is a supervisor."""
    return options.workers > 1 or options.reload or options.worker_timeout is not None or options.metrics is not None


def _in_workers(options: argparse.Namespace, logs: LogSetup, server_options: dict[str, Any]) -> int:
    folders = [Path(each) for each in options.reload_dir or [options.app_dir]]
    return run_workers(
        options.target,
        workers=options.workers,
        app_dir=options.app_dir,
        asgi=options.asgi,
        backend=options.backend,
        reload=folders if options.reload else (),
        worker_timeout=options.worker_timeout,
        metrics=options.metrics,
        logs=logs,
        **server_options,
    )


# -- the options of the server as arguments


def _server_arguments() -> list[tuple[str, dict[str, Any]]]:
    """Every option of the server that a word can give: its name and what argparse needs."""
    hints = get_type_hints(ServerOptions)
    return [
        (field.name, keywords)
        for field in dataclasses.fields(Config)
        if (keywords := _keywords(field.name, hints[field.name], field.default)) is not None
    ]


def _keywords(name: str, kind: Any, default: Any) -> dict[str, Any] | None:
    text = {"help": f"(default: {default})"}
    words = [word for each in (kind, *get_args(kind)) for word in get_args(each) if isinstance(word, str)]
    if words:
        return {"choices": sorted(set(words)), **text}
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction, **text}
    if kind is int:
        return {"type": whole, "metavar": "N", **text}
    if kind is float:
        return {"type": seconds, "metavar": "SECONDS", **text}
    if kind in (str, str | None):
        return {"metavar": "TEXT", **text}
    return None


def _count(text: str) -> int:
    if (number := whole(text)) < 1:
        raise argparse.ArgumentTypeError("at least one worker is needed")
    return number
