"""What Linux knows about a process: the CPU time it took and the memory it holds.  And on which core it may run."""

from __future__ import annotations

import contextlib
import os
import resource
from dataclasses import dataclass
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
NICE = -10
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds of a process since it began, all its threads together."""

    user: float = 0.0
    system: float = 0.0

    @property
    def total(self) -> float:
        """User and system."""
        return self.user + self.system

    def since(self, before: Usage) -> Usage:
        """What was used after `before`."""
        return Usage(self.user - before.user, self.system - before.system)


def usage(pid: int | None) -> Usage:
    """utime and stime of /proc/PID/stat, which count in hundredths of a second; zero without a process."""
    if pid is None:
        return Usage()
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # a name may hold blanks and ")"
    return Usage(int(fields[11]) / TICK, int(fields[12]) / TICK)


def family(pid: int) -> list[int]:
    """The process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def resident(pid: int) -> int:
    """Bytes of memory the process holds now (RSS)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def cores() -> tuple[int, int] | None:
    """The core of the servers and that of the load; None where there is only one, and nothing is pinned."""
    usable = sorted(os.sched_getaffinity(0))
    return (usable[0], usable[1]) if len(usable) > 1 else None


def prefer(pid: int) -> None:
    """Put a process, which leads a session of its own, ahead of what else the machine does, if we may.

    A server that is pushed aside in the middle of its work finds cold caches afterwards, and that counts as its CPU
    time.  Where Linux groups processes by session ("autogroup"), niceness is weighed within a group only, so the
    group needs it too.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, NICE)
        Path(f"/proc/{pid}/autogroup").write_text(str(NICE))


def raise_descriptor_limit() -> None:
    """As many descriptors as we may have; servers started later inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
