"""Threads: the worker pool for plain `def` code, and how any thread gets into the loop.

`pool` has the threads, `places` says who may begin, `jobs` is one call on a worker, `messages` one that takes several,
`plain` is what plain functions become on the loop, and `crossing` is one call of a thread into the loop.  What
applications see of it is in `channelkit.sync`.
"""
