"""Power: what is drawn now, and over the last hour of the account what GPUs did with it, why they idled, whose they are."""

from __future__ import annotations

from dataclasses import replace

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.widgets import Static

from .. import power_text
from ..power import BY, Power
from ..views.power import PowerView
from ..widgets.table import LiveTable
from .page import Page


class PowerPage(Page[Power]):
    """Sentences, sums by state and cause, and who drew."""

    BINDINGS = [Binding("b", "next_by", "by", show=False, id="power.by", tooltip="Tell it by job, user, node or GPU")]

    by: str = BY[0]

    def content(self) -> ComposeResult:
        """Two texts, and a table under a line that says of what."""
        yield Static("", id="power")
        yield Static("", id="sums")
        yield Static("", id="by")
        yield LiveTable(power_text.columns(Power()), id="drawers")

    def wanted(self) -> PowerView:
        """Told by what was chosen."""
        return PowerView(self.by)

    def show(self, shown: Power) -> None:
        """An answer arrived; of an account that cannot be had the last sums stay."""
        if shown.error is not None and self.shown is not None and self.shown.by == shown.by:
            shown = replace(self.shown, live=shown.live, now_ns=shown.now_ns, error=shown.error)
        super().show(shown)

    def draw(self, shown: Power) -> None:
        """Say it, and list who drew."""
        power = shown
        self.query_one("#power", Static).update(Text("\n").join(power_text.sentences(power)))
        sums, by = self.query_one("#sums", Static), self.query_one("#by", Static)
        sums.display = by.display = bool(power.states)
        sums.update(power_text.sums(power, self.size.width))
        by.update(power_text.order(power))
        table = self.query_one("#drawers", LiveTable)
        table.set_class(not power.states, "empty")
        table.head(power_text.columns(power))
        table.show([(f"{each.key is None} {each.key}", power_text.row(each, power)) for each in power.drawers])

    def action_next_by(self) -> None:
        """Tell it by the next of job, user, node and GPU."""
        self.by = BY[(BY.index(self.by) + 1) % len(BY)]
        self.want()
