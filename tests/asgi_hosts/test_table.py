"""The table of docs/asgi-hosts.md is whole: rows and columns are those of the tests, and no cell is empty."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hosting.processes import HOSTS
from hosting.table import ABILITIES, PATH, UNSEEN

if TYPE_CHECKING:
    from hosting.table import Table


def test_the_table_is_whole(table: Table) -> None:
    """Every ability has been seen on every host, and nothing else is in it but the versions of the day."""
    assert len(set(ABILITIES.values())) == len(ABILITIES)
    empty = [
        (host.name, one) for host in HOSTS for one in ABILITIES if table.cells.get((host.name, one)) in (None, UNSEEN)
    ]
    assert empty == []
    seen_with = re.compile("^Seen with .*$", re.MULTILINE)
    assert seen_with.sub("", table.render()) == seen_with.sub("", PATH.read_text())
