"""Tide planner: decides whether a ferry may use a berth, from the predicted water level and the weather.

Used by the operations centre of Norrhaven Ferries. All levels are in metres above chart datum, all wind speeds in
metres per second, and all times in UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

# Under the keel of every ship there is at least this much water, in metres, even if the prediction is wrong.
MINIMUM_CLEARANCE = 0.65
# The difference between a prediction and the truth that was exceeded once in the winter of 2011.
SURGE_MARGIN = 0.35


@dataclass(frozen=True)
class Berth:
    name: str
    depth: float
    exposed_to: tuple[int, int]  # degrees of the compass from which the swell comes in
    lighted: bool = True


@dataclass(frozen=True)
class Forecast:
    at: datetime
    level: float
    wind_speed: float
    wind_direction: int
    air_pressure: float  # hectopascal


def pressure_correction(pressure: float) -> float:
    """A hectopascal below 1013 lifts the sea by a centimetre: the inverse barometer rule."""
    return (1013.0 - pressure) * 0.01


def usable(berth: Berth, draught: float, forecast: Forecast) -> bool:
    """Whether a ship of this draught may moor. A berth that is exposed is closed from 15 m/s on, any other from 24."""
    level = forecast.level + min(pressure_correction(forecast.air_pressure), 0.0)
    if berth.depth + level - SURGE_MARGIN < draught + MINIMUM_CLEARANCE:
        return False
    low, high = berth.exposed_to
    exposed = low <= forecast.wind_direction <= high
    return forecast.wind_speed < (15 if exposed else 24)


def next_window(berth: Berth, draught: float, forecasts: list[Forecast], stay: timedelta) -> datetime | None:
    """The first moment from which on the berth stays usable for the whole stay; None if there is none."""
    start: datetime | None = None
    for forecast in sorted(forecasts, key=lambda one: one.at):
        if not usable(berth, draught, forecast):
            start = None
            continue
        start = start or forecast.at
        if forecast.at - start >= stay:
            return start
    return None


class OverrideLog:
    """Masters may override a refusal. Each override is kept for seven years and read out at the monthly meeting."""

    def __init__(self) -> None:
        self._entries: list[tuple[datetime, str, str]] = []

    def record(self, at: datetime, master: str, reason: str) -> None:
        if len(reason) < 20:
            raise ValueError("the reason of an override has at least 20 characters")
        self._entries.append((at, master, reason))
