"""Worker processes: several processes that share the listening sockets, and the one that looks after them.

`running` is the call.  `supervisor` is the parent: it starts workers, restarts those that die, replaces them one by
one, and ends them.  `process` is the child: it loads the handler and serves it.  `job` is what the one tells the
other, `reports` what comes back.  `target` finds a handler by its name, `early_signals` lets SIGTERM end that.
`reloading` watches files.
"""

from channelkit.workers.running import run_workers
from channelkit.workers.target import TargetError, load, why

__all__ = ["TargetError", "load", "run_workers", "why"]
