"""The built-in transports, each a Channel of its own.  They know seam 2 (`spi`), never a host."""
