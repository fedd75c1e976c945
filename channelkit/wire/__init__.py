"""Pure codecs: bytes in, events or messages out, and back.  No waiting, no sockets; time is an argument."""
