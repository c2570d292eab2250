"""Parts of a page that take turns in the same place, under a line that names them."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import RenderableType
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static, TabbedContent, TabPane


class Parts(TabbedContent):
    """Parts by name: a text where None is given, else a widget of one's own. The first is in front."""

    DEFAULT_CSS = """
    Parts { height: 1fr; }
    Parts ContentTabs { height: 1; }
    Parts Tab { height: 1; padding: 0 1; }
    Parts Tab.-active { text-style: reverse; }
    Parts Underline { display: none; }
    Parts ContentSwitcher { height: 1fr; }
    Parts TabPane { height: 1fr; padding: 0 1; }
    Parts VerticalScroll { scrollbar-size-vertical: 1; }
    Parts Static { height: auto; }
    """

    def __init__(self, parts: Mapping[str, Widget | None], *, id: str) -> None:
        super().__init__(id=id)
        self._parts = dict(parts)
        self._said: dict[str, RenderableType] = {}

    def compose(self) -> ComposeResult:
        """A pane each."""
        for name, widget in self._parts.items():
            text = Static("", id=f"part-{name}") if widget is None else widget
            pane = VerticalScroll(text, can_focus=False) if widget is None else text
            self._tab_content.append(TabPane(name, pane, id=f"pane-{name}"))
        yield from super().compose()

    def on_mount(self) -> None:
        """The names take no focus: whatever has it keeps it, and keys of the page go through the parts."""
        for tabs in self.query("ContentTabs"):
            tabs.can_focus = False

    @property
    def chosen(self) -> str:
        """Name of the part in front."""
        return self.active.removeprefix("pane-")

    def choose(self, name: str) -> None:
        """Bring a part to the front."""
        self.active = f"pane-{name}"

    def step(self, by: int) -> None:
        """Bring the next or the previous one to the front."""
        names = list(self._parts)
        self.choose(names[(names.index(self.chosen) + by) % len(names)])

    def say(self, name: str, words: RenderableType) -> None:
        """Write a part that is a text."""
        if self._said.get(name) != words:
            self._said[name] = words
            self.query_one(f"#part-{name}", Static).update(words)

    def mark(self, name: str, words: str) -> None:
        """Write something beside a part's name: a count, or `!` where something is wrong."""
        tab = self.get_tab(f"pane-{name}")
        label = f"{name} {words}".strip()
        if str(tab.label) != label:
            tab.label = Content(label)

    def page_down(self) -> None:
        """Scroll the text in front by its height; from the end back to the start."""
        for scroll in self.query_one(f"#pane-{self.chosen}").query(VerticalScroll):
            if scroll.scroll_y >= scroll.max_scroll_y:
                scroll.scroll_home(animate=False)
            else:
                scroll.scroll_page_down(animate=False)
