"""What a test of a transport stands on: virtual time (`clock`), a network in memory that fails on demand (`network`).

Private for now: names here may change without notice.
"""
