"""What a worker process is to do: made by the supervisor, read by the worker."""

from __future__ import annotations

import pickle
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from channelkit.errors import ConfigError
from channelkit.observing.log_setup import LogSetup

START_FAILED = 3  # the exit code of a worker that could not begin: its handler, its options, its lifespan
DUMP_SIGNAL = signal.SIGQUIT  # a worker then writes its threads' stacks to stderr and goes on, as Java's machine does
KILL_MARGIN = 5.0  # seconds past its own deadlines before a worker that was told to stop is killed


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Everything a worker needs to know.  It crosses a pipe, so all of it can be pickled."""

    target: str
    app_dir: str
    asgi: bool
    backend: Literal["asyncio", "trio"]
    options: Mapping[str, Any]  # of `serve`
    logs: LogSetup
    stop_within: float  # seconds, by its own deadlines, that it may take to stop
    numbers: bool = False  # whether it is to report them

    def packed(self) -> bytes:
        """The job as bytes.  Raises ConfigError for an option that cannot be given to another process."""
        for name, value in self.options.items():
            try:
                pickle.dumps(value)
            except Exception as error:
                raise ConfigError(f"{name} cannot be given to worker processes: {error}") from error
        return pickle.dumps(self)


def unpacked(data: bytes) -> Job:
    """The job the supervisor packed: only ever read from the pipe it left us."""
    job = pickle.loads(data)
    assert isinstance(job, Job)
    return job
