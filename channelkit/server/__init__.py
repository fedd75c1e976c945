"""Our own server: a host of channels.  It knows the exchanges of `spi`, and no transport."""
