"""ASGI: applications of others inside our server, and channels inside the servers of others."""

from channelkit.asgi.handler import ASGIHandler as ASGIHandler
