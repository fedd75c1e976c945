"""Whether this process accepts connections together with others: then a session's next request may miss it."""

from __future__ import annotations

from channelkit._lifecycle import logger

_workers = 1


def one_of(workers: int) -> None:
    """This process is one of so many on the same sockets, and the one that says what that means for sessions."""
    global _workers
    _workers = workers


def warn() -> None:
    """An endpoint was made: once, say that its sessions are not those of the other processes."""
    global _workers
    workers, _workers = _workers, 1
    if workers > 1:
        logger.warning(
            "an Endpoint is served by %d workers, and a session lives in one of them: a request that meets another "
            "gets 404, and its client loses the session. Run one worker (--workers 1); for more, several servers on "
            "ports of their own, behind a proxy that sends a client always to the same one (docs/deploying.md)",
            workers,
        )
