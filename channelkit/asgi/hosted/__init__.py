"""Our handlers inside any ASGI host: the second host behind the seam of `spi`."""
