"""The line at the bottom: the keys that work here, as many as there is room for; a click is as good as the key."""

from __future__ import annotations

from typing import Final

from rich.text import Text
from textual.binding import Binding
from textual.dom import DOMNode
from textual.events import Click, Resize
from textual.screen import Screen
from textual.widgets import Static

ALWAYS: Final = ("help", "quit")
"""Bindings that are shown in the narrowest window, to the right."""
SCREENS: Final = "show."
"""What the ids of keys begin with that lead to a screen; they give way to what works here alone."""

SUMMED: Final = " 1-9 screens "
"""What stands for the screens where they do not all fit."""


class Keys(Static):
    """Written from the bindings that are in force; it changes with the focus."""

    def __init__(self) -> None:
        super().__init__()
        self._spans: list[tuple[int, int, DOMNode, str]] = []
        self._said: Text | None = None

    def on_mount(self) -> None:
        """Follow the bindings."""
        self.screen.bindings_updated_signal.subscribe(self, self._changed)
        self._write()

    def on_resize(self, event: Resize) -> None:
        """There is more or less room."""
        self._write()

    async def on_click(self, event: Click) -> None:
        """As if the key had been pressed."""
        for start, end, node, action in self._spans:
            if start <= event.x < end:
                await self.app.run_action(action, node)

    def _changed(self, screen: Screen[object]) -> None:
        self.call_after_refresh(self._write)

    def _write(self) -> None:
        if not self.is_attached or self.screen is not self.app.screen:
            return
        here, screens, always = self._shown()
        room = self.size.width - sum(map(_width, always))
        screens.sort(key=lambda each: each[2])
        fit = len(_fitting([*here, *screens], room)) == len(here) + len(screens)
        said, self._spans = Text(), []
        for each in [*here, *screens] if fit else _fitting(here, room - len(SUMMED)):
            self._append(said, each)
        if screens and not fit:
            said.append(f" {screens[0][2]}-{screens[-1][2]} ", "bold").append("screens ")
        for each in always:
            self._append(said, each)
        if said != self._said:
            self._said = said
            self.update(said, layout=False)

    def _append(self, said: Text, shown: _Shown) -> None:
        node, binding, key = shown
        start = said.cell_len
        said.append(f" {key} ", "bold").append(f"{binding.description} ")
        self._spans.append((start, said.cell_len, node, binding.action))

    def _shown(self) -> tuple[list[_Shown], list[_Shown], list[_Shown]]:
        """What works here alone, what leads to screens, and what is always shown; each binding once."""
        here: list[_Shown] = []
        screens: list[_Shown] = []
        always: list[_Shown] = []
        seen = set()
        for active in self.screen.active_bindings.values():
            binding = active.binding
            if not binding.show or (binding.id or binding.action) in seen:
                continue
            seen.add(binding.id or binding.action)
            shown = (active.node, binding, self.app.get_key_display(binding))
            name = binding.id or ""
            (always if name in ALWAYS else screens if name.startswith(SCREENS) else here).append(shown)
        return here, screens, always


_Shown = tuple[DOMNode, Binding, str]


def _fitting(listed: list[_Shown], room: int) -> list[_Shown]:
    """As many of the first as there is room for."""
    fitting = []
    for each in listed:
        if (room := room - _width(each)) < 0:
            break
        fitting.append(each)
    return fitting


def _width(shown: _Shown) -> int:
    return Text(f" {shown[2]} {shown[1].description} ").cell_len
