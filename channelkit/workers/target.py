"""Finding a handler by its name, "module:handler", and telling what is wrong with a name that leads nowhere."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

from channelkit.asgi import ASGIHandler
from channelkit.errors import ConfigError, LifespanFailed, NotAvailable
from channelkit.responding import Handler, checked_handler


class TargetError(ConfigError):
    """The name of a handler leads nowhere, or to something that is not a handler.  The text says what to do."""


def why(error: Exception) -> str:
    """What kept a handler from being served, for the one who tried to.

    One line for a wrong name, a wrong option, a place that is taken: it says what is wrong, and the cure.  What the
    handler's own code has raised needs its traceback, whatever kind of error it is.
    """
    if not _is_plain(error):
        own = error.with_traceback(_from_module(error.__traceback__))
        return "\n" + "".join(traceback.format_exception(own)).rstrip()
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def _is_plain(error: Exception) -> bool:
    if isinstance(error, TargetError):
        return True
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    ours = bool(frames) and frames[-1].startswith("channelkit.") and "importlib._bootstrap" not in frames
    return ours and isinstance(error, ConfigError | LifespanFailed | OSError)


def _from_module(trace: TracebackType | None) -> TracebackType | None:
    """The traceback of what a module raised while it was imported, without the way there; any other as it is."""
    importing, rest = False, trace
    while rest is not None:
        name = rest.tb_frame.f_globals.get("__name__", "")
        if importing and not name.startswith("importlib"):
            break
        importing = importing or name.startswith("importlib")
        rest = rest.tb_next
    return rest if importing else trace  # None: a SyntaxError, whose text has the place


def load(target: str, app_dir: str = "", *, asgi: bool = False) -> Handler:
    """The handler that `target`, "module:name" or "package.module:object.attribute", names.

    `app_dir` is put first on the module path, as `python -m` does with the current directory; "" leaves the path
    alone.  `asgi`: the name is that of an ASGI application, which is served as `ASGIHandler(application)`.

    Raises TargetError if the name is malformed, or there is no such module or attribute, or it is no handler.  What
    the module itself raises while it is imported goes through unchanged, with its traceback.
    """
    module_name, _, path = target.partition(":")
    if path and (module_name.endswith(".py") or "/" in module_name):
        raise TargetError(f"{module_name!r} is a file; name the module instead: {_as_module(module_name)}:{path}")
    if not (_is_dotted(module_name) and _is_dotted(path)):
        raise TargetError(f"a handler is named module:handler, such as chat:room; {target!r} is not such a name")
    if app_dir:
        place = str(Path(app_dir).resolve())
        if place not in sys.path:
            sys.path.insert(0, place)
    module = _module(module_name, app_dir)
    found: Any = module
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            which = _elsewhere(module, app_dir)
            raise TargetError(f"{module_name}{which} has no {path!r}{_near(name, found)}") from None
    return _handler(target, found, asgi)


def _module(name: str, app_dir: str) -> Any:
    try:
        return importlib.import_module(name)
    except SystemExit as error:
        raise TargetError(f"its module ended the process while it was imported: sys.exit({error.code!r})") from None
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise  # the module is there; something that it imports is not
        looked = f" (looked in {Path(app_dir).resolve()} and on Python's path)" if app_dir else ""
        raise TargetError(f"there is no module named {error.name!r}{looked}; --app-dir names another folder") from None


def _elsewhere(module: Any, app_dir: str) -> str:
    """Which file it is, if it is another than one would think: a module of Python's own may have that name."""
    file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)  # or a bare folder
    if not app_dir or (file is not None and Path(file).resolve().is_relative_to(Path(app_dir).resolve())):
        return ""
    return f" ({file or 'built into Python'}, which is not in {Path(app_dir).resolve()})"


def _handler(target: str, found: Any, asgi: bool) -> Handler:
    if asgi:
        return ASGIHandler(found)
    if not callable(found):
        raise TargetError(
            f"{target} is {_article(type(found).__name__)}, not a handler: async def handler(request): ..."
        )
    if looks_like_asgi(found):
        raise TargetError(f"{target} looks like an ASGI application, not a handler; --asgi serves it")
    try:
        return checked_handler(found)
    except (ConfigError, NotAvailable) as error:
        raise TargetError(f"{target}: {error}") from None


def looks_like_asgi(found: Any) -> bool:
    """Whether a callable takes what ASGI 3 gives, `(scope, receive, send)`, where a handler takes one request."""
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):
        return False
    needed = [p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(needed) == 3


def _is_dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def _as_module(file: str) -> str:
    return file.removesuffix(".py").strip("./").replace("/", ".")


def _near(name: str, owner: Any) -> str:
    near = difflib.get_close_matches(name, [each for each in dir(owner) if not each.startswith("_")], n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _article(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
