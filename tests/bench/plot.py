"""The curves of docs/performance: plain SVG, readable on light and dark pages."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 360, 64, 170, 40, 48
COLOURS = ("#2a7de1", "#d9662b", "#2f9e5f", "#8f5bd0")
GREY = "#808080"
Points = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Curve:
    label: str
    points: Points
    dashed: bool = False


def write(folder: Path, figures: Mapping[tuple[str, str], tuple[float, float | None]]) -> None:
    """`figures` is (value, floor) by engine and name. Curves without points are left out, and so is an empty plot."""
    folder.mkdir(parents=True, exist_ok=True)

    def curve(label: str, engine: str, pattern: str, *, floor: bool = False) -> Curve:
        found: Points = []
        for (where, name), (value, below) in figures.items():
            match = re.fullmatch(pattern, name)
            y = below if floor else value
            if match and where == engine and y is not None:
                found.append((float(match[1].replace(",", "")), y))
        return Curve(label, sorted(found), floor)

    load = r"run, (\d+) clients?: "
    plots = {
        "load-overhead.svg": ("Overhead of a polled run, p50", "clients at once", "ms", f"{load}overhead p50"),
        "load-cpu.svg": ("CPU of a run, its polls included", "clients at once", "ms", f"{load}CPU a run"),
        "load-rate.svg": ("Completed runs, at a model of 100 ms", "clients at once", "/s", f"{load}completed"),
    }
    for file, (title, x, y, pattern) in plots.items():
        curves = [
            curve("SQLite, one process", "sqlite", pattern),
            curve("SQLite, separate", "sqlite, separate", pattern),
            curve("Azurite, separate", "azurite, separate", pattern),
            curve("floor of SQLite", "sqlite", pattern, floor=True),
        ]
        _save(folder / file, title, x, y, curves)
    curves = [
        curve("list 20, SQLite", "sqlite", r"list 20 at ([\d,]+) messages"),
        curve("start a run, SQLite", "sqlite", r"start a run at ([\d,]+) messages"),
        curve("list 20, Azurite", "azurite, separate", r"list 20 at ([\d,]+) messages"),
        curve("start a run, Azurite", "azurite, separate", r"start a run at ([\d,]+) messages"),
    ]
    _save(folder / "thread-length.svg", "Cost by length of the thread", "messages in the thread", "ms", curves)


def _save(file: Path, title: str, x_label: str, y_label: str, curves: list[Curve]) -> None:
    curves = [curve for curve in curves if curve.points]
    if curves:
        file.write_text(_svg(title, x_label, y_label, curves))


def _svg(title: str, x_label: str, y_label: str, curves: list[Curve]) -> str:
    """x is logarithmic, y starts at 0."""
    xs = sorted({x for curve in curves for x, _ in curve.points})
    step = _step(max(y for curve in curves for _, y in curve.points))
    top = step * math.ceil(max(y for curve in curves for _, y in curve.points) / step)
    low, high = math.log(xs[0]), math.log(max(xs[-1], xs[0] * 1.01))

    def across(x: float) -> float:
        return LEFT + (math.log(x) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def up(y: float) -> float:
        return HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"'
        f' font-size="12" fill="{GREY}"><title>{title}</title>',
        f'<text x="{LEFT}" y="20" font-size="14">{title} ({y_label})</text>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 10}" text-anchor="middle">{x_label}</text>',
    ]
    for tick in range(round(top / step) + 1):
        y = up(tick * step)
        parts += [
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{GREY}" stroke-opacity="0.25"/>',
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick * step:g}</text>',
        ]
    parts += [f'<text x="{across(x):.1f}" y="{HEIGHT - 30}" text-anchor="middle">{x:,.0f}</text>' for x in xs]
    for number, curve in enumerate(curves):
        colour = GREY if curve.dashed else COLOURS[number % len(COLOURS)]
        line = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in curve.points)
        dashes = ' stroke-dasharray="5 4"' if curve.dashed else ""
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>')
        parts += [f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="3" fill="{colour}"/>' for x, y in curve.points]
        y = TOP + 18 * number
        parts += [
            f'<line x1="{WIDTH - RIGHT + 12}" x2="{WIDTH - RIGHT + 34}" y1="{y}" y2="{y}" stroke="{colour}"'
            f' stroke-width="2"{dashes}/>',
            f'<text x="{WIDTH - RIGHT + 40}" y="{y + 4}">{curve.label}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _step(top: float) -> float:
    """Between four and ten lines of 1, 2 or 5 times a power of ten."""
    power = 10 ** math.floor(math.log10(max(top, 1e-9) / 4))
    return next(power * factor for factor in (1, 2, 5, 10) if top / (power * factor) <= 10)
