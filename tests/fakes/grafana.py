"""What Grafana makes of a query before it is sent: its variables, and the macros of its PostgreSQL data source.

The macros are those of pkg/tsdb/grafana-postgresql-datasource/macros.go: no parenthesis may stand in an argument.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

_MACRO = re.compile(r"\$(__[a-zA-Z0-9]+)\(([^)]*)\)")
_VARIABLE = re.compile(r"\$\{(\w+)(?::(\w+))?\}|\$(\w+)")
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0}


@dataclass(frozen=True)
class Range:
    """The range of time that is looked at, and what is chosen."""

    from_ns: int
    to_ns: int
    chosen: Mapping[str, str]
    interval: str = "30s"

    def variables(self, text: str) -> str:
        """With `$name`, `${name}` and `${name:sqlstring}` replaced; KeyError for one that is not known."""
        known = {"__interval": self.interval, "__rate_interval": "1m", **self.chosen}

        def put(match: re.Match[str]) -> str:
            name, form = match[1] or match[3], match[2]
            if name.startswith("__") and name not in known:
                return match[0]
            value = known[name]
            return "'" + value.replace("'", "''") + "'" if form == "sqlstring" else value

        return _VARIABLE.sub(put, text)

    def sql(self, text: str) -> str:
        """With variables and macros replaced; ValueError for a macro that there is not."""
        told = self.variables(text)
        told = _MACRO.sub(lambda match: self._macro(match[1], [each.strip() for each in match[2].split(",")]), told)
        if "$" in told:
            raise ValueError(f"not known to Grafana: {told[told.index('$') :][:40]}")
        return told

    def _macro(self, name: str, arguments: Sequence[str]) -> str:
        column = arguments[0]
        if name in ("__timeGroupAlias", "__unixEpochGroupAlias"):
            return self._macro(name.removesuffix("Alias"), arguments) + ' AS "time"'
        if name == "__timeFilter":
            return f"{column} BETWEEN {_moment(self.from_ns)} AND {_moment(self.to_ns)}"
        if name == "__unixEpochFilter":
            return f"{column} >= {self.from_ns // 10**9} AND {column} <= {self.to_ns // 10**9}"
        if name == "__unixEpochNanoFilter":
            return f"{column} >= {self.from_ns} AND {column} <= {self.to_ns}"
        if name == "__timeGroup":
            size = _seconds(arguments[1])
            return f"floor(extract(epoch from {column})/{size:g})*{size:g}"
        if name == "__unixEpochGroup":
            size = _seconds(arguments[1])
            return f"floor(({column})/{size:g})*{size:g}"
        raise ValueError(f"no macro {name}")


def _seconds(interval: str) -> float:
    match = re.fullmatch(r"'?(\d+)(ms|s|m|h)'?", interval)
    if match is None:
        raise ValueError(f"no interval: {interval}")
    return int(match[1]) * SECONDS[match[2]]


def _moment(time_ns: int) -> str:
    return f"'{datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat().replace('+00:00', 'Z')}'"
