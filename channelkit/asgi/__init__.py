"""ASGI 3, both ways: our handlers inside any ASGI host, and ASGI applications inside our server."""

from channelkit.asgi.application import ASGIApp as ASGIApp
from channelkit.asgi.handler import ASGIHandler as ASGIHandler
