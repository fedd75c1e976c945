"""Soak tests: one server, many and hostile clients, and the question whether `/hello` is still answered."""
