"""The command `channelkit`: the demo, and the version."""

from __future__ import annotations

import argparse
import errno
import functools
import ipaddress
import sys
from collections.abc import Sequence
from importlib import metadata

import anyio

from channelkit.demo import Chat
from channelkit.server import Server, serve
