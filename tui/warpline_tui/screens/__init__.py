"""Every screen by name. One line each."""

from __future__ import annotations

from .findings import FindingsScreen
from .fleet import FleetScreen
from .kernels import KernelsScreen
from .page import Page
from .power import PowerScreen
from .sources import SourcesScreen

SCREENS: dict[str, type[Page]] = {
    "fleet": FleetScreen,
    "findings": FindingsScreen,
    "kernels": KernelsScreen,
    "sources": SourcesScreen,
    "power": PowerScreen,
}
