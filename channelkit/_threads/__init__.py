"""Threads: the worker pool for plain `def` code, and how any thread gets into the loop.

`pool` hands out places, `jobs` is one call on a worker, `plain` is what plain functions become on the loop, and
`crossing` is one call of a thread into the loop.  What applications see of it is in `channelkit.sync`.
"""
