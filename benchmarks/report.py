"""From figures to tables: medians of rounds, and ratios to the best peer of the same run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.cells import CELLS

Row = dict[str, Any]  # one run: server, cell, round, and a load's result or its `error`
LOAD_LIMIT = 0.95  # of one core: above it the load could not ask faster, so the rate says nothing about the server
HEADS = {"cpu_us": "CPU us/op", "p50_us": "p50 us", "bytes_each": "bytes each"}


def main_figure(cell: str) -> str:
    """What a cell is about: CPU time, the time of a round trip, or memory."""
    return {"lat": "p50_us", "idle": "bytes_each"}.get(cell, "cpu_us")


def of(rows: Iterable[Row], cell: str, server: str) -> list[Row]:
    """The runs of one server in one cell."""
    return [row for row in rows if row["cell"] == cell and row["server"] == server]


def median(rows: Iterable[Row], figure: str) -> float:
    """Over the runs that have the figure; not a number if none has."""
    values = [row[figure] for row in rows if row.get(figure) is not None]
    return statistics.median(values) if values else math.nan


def errors(rows: Iterable[Row]) -> list[str]:
    """What went wrong, each thing once."""
    return list(dict.fromkeys(row["error"] for row in rows if "error" in row))


def best_peer(rows: list[Row], cell: str, peers: Iterable[str]) -> tuple[str, float]:
    """The peer with the lowest figure, and the figure; a name of "" and not a number without any."""
    figures = {name: median(of(rows, cell, name), main_figure(cell)) for name in peers}
    known = {name: value for name, value in figures.items() if not math.isnan(value)}
    return min(known.items(), key=lambda item: item[1], default=("", math.nan))


def table(rows: list[Row], cell: str, peers: Mapping[str, bool]) -> str:
    """A cell's Markdown table.  `peers` maps each server, in order, to whether it is one."""
    best, reference = best_peer(rows, cell, [name for name, is_peer in peers.items() if is_peer])
    lines = [
        f"### {cell}: {CELLS[cell].text}",
        "",
        f"| server | {HEADS[main_figure(cell)]} | ratio to {best or 'the best peer'} | {_second_head(cell)} | |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    lines += [_line(name, of(rows, cell, name), cell, reference) for name in peers if of(rows, cell, name)]
    return "\n".join(lines)


def _second_head(cell: str) -> str:
    return {"lat": "p99 us", "idle": "CPU us/opening"}.get(cell, "ops/s")


def _line(name: str, rows: list[Row], cell: str, reference: float) -> str:
    figure = main_figure(cell)
    second = {"lat": "p99_us", "idle": "cpu_us"}.get(cell, "rate")
    value = median(rows, figure)
    columns = (name, _number(value), _number(value / reference), _number(median(rows, second)), _note(rows))
    return f"| {' | '.join(columns)} |"


def _note(rows: list[Row]) -> str:
    if wrong := errors(rows):
        return "; ".join(wrong).replace("|", "\\|")
    return "the load was the limit of ops/s" if median(rows, "load_busy") > LOAD_LIMIT else ""


def _number(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def progress(row: Row) -> str:
    """One run, while one waits for the rest."""
    start = f"{row['cell']:10} {row['server']:28}"
    if "error" in row:
        return f"{start} {row['error']}"
    figure = main_figure(row["cell"])
    shares = f"server {row['server_busy']:4.0%} load {row['load_busy']:4.0%}"
    return f"{start} {_number(row[figure]):>8} {HEADS[figure]:10} {_number(row['rate']):>10}/s  {shares}"


def comparison(rows: list[Row], cell: str, first: str, second: str) -> str:
    """How the second server does against the first: round by round, and of the medians."""
    figure = main_figure(cell)
    pairs = zip(of(rows, cell, first), of(rows, cell, second), strict=False)  # fewer of one if interrupted
    ratios = [b[figure] / a[figure] for a, b in pairs if a.get(figure) and b.get(figure)]
    whole = median(of(rows, cell, second), figure) / median(of(rows, cell, first), figure)
    by_round = " ".join(f"{ratio:.2f}" for ratio in ratios)
    return f"{cell}: {HEADS[figure]} of {second} / {first} = {_number(whole)} (rounds: {by_round or 'none'})"
