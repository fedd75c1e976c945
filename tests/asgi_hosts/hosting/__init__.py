"""What the tests of ASGI hosts are made of: the application, the hosts as processes, clients, and the table."""
