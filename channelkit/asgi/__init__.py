"""ASGI 3, both ways: our handlers inside any ASGI host, and ASGI applications inside our server."""

from channelkit.asgi.hosted.application import ASGIApp as ASGIApp
from channelkit.asgi.hosting.handler import ASGIHandler as ASGIHandler
