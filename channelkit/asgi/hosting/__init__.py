"""ASGI applications inside our server: each a request handler like any other."""
