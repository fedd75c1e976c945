"""One small server per library, all with the same three endpoints: `python -m benchmarks.peers.NAME PORT`.

WebSocket /echo sends every message back; WebSocket /fan sends every message to all who are on it, the sender too;
GET /hello answers 13 bytes.  No compression, no pings, no access log, so that all do the same work.
"""
