"""The asynchronous response of http-kit's documentation: a request is held, and answered later from elsewhere.

    curl http://127.0.0.1:8090/wait &
    curl -d "it happened" http://127.0.0.1:8090/tell

Holding costs no task: the channel of a plain request waits for its one `send`, which is the answer.
"""

from __future__ import annotations

import anyio

from channelkit import Channel, Group, Request, Response, as_channel, serve

waiting = Group()  # those who hung up leave by themselves


async def handler(request: Request) -> Channel | Response:
    """GET /wait holds; POST /tell answers everybody who waits."""
    if request.path == "/wait" and request.method == "GET":
        return as_channel(request, on_open=waiting.add)
    if request.path == "/tell" and request.method == "POST":
        answer = Response(200, {"Content-Type": "text/plain; charset=utf-8"}, await request.body())
        return Response(body=f"told {waiting.send_nowait(answer)}\n")
    return Response(404)


if __name__ == "__main__":
    anyio.run(serve, handler)
