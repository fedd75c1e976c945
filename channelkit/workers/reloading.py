"""Watching source files, so that a change replaces the workers: for development."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from channelkit.errors import ConfigError


def watching(folders: Sequence[Path]) -> Callable[[Callable[[str], None]], Callable[[], None]]:
    """A function that starts a thread which calls `changed(path)` after a change to Python files in `folders`.

    That function returns the one that ends the thread.  Raises ConfigError if the package watchfiles is missing, or a
    folder is.
    """
    try:
        import watchfiles
    except ModuleNotFoundError:
        raise ConfigError("reloading needs the package watchfiles: pip install 'channelkit[reload]'") from None
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"there is no folder {folder} to watch for changes")

    def start(changed: Callable[[str], None]) -> Callable[[], None]:
        stopped = threading.Event()

        def watch() -> None:
            changes = watchfiles.watch(*folders, watch_filter=watchfiles.PythonFilter(), stop_event=stopped)
            for batch in changes:
                changed(_shown(min(path for _, path in batch)))

        thread = threading.Thread(target=watch, name="channelkit-reload", daemon=True)
        thread.start()

        def stop() -> None:
            stopped.set()
            thread.join()

        return stop

    return start


def _shown(path: str) -> str:
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path
