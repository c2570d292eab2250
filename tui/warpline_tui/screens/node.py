"""A node: its GPUs as a table with lines of their past, and in turn what is odd, programs, links, log, agent, replacements."""

from __future__ import annotations

from typing import Final

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.widgets import DataTable, Static

from .. import node_parts, node_text
from ..place import Go, Place
from ..spans import RECENT, following
from ..views.node import Node, NodeView
from ..views.node_gpus import Gpu
from ..widgets.parts import Parts
from ..widgets.table import LiveTable
from .page import Page

TALL: Final = 45
"""From so many lines on the overview has room for more than what is odd."""
PARTS: Final = ("overview", "gpu", "programs", "links", "log", "agent", "replaced")


class NodePage(Page[Node]):
    """GPUs above, one of the parts below."""

    CSS = """
    NodePage #node { height: auto; max-height: 3; padding: 0 1; }
    NodePage #grain { height: 1; padding: 0 1; color: $text-muted; }
    NodePage #node-gpus { height: auto; max-height: 60%; }
    """
    BINDINGS = [
        Binding("tab", "part(1)", "next part", id="node.next_part", tooltip="Show the next part below the GPUs"),
        Binding(
            "shift+tab",
            "part(-1)",
            "previous part",
            show=False,
            id="node.previous_part",
            tooltip="Show the part before",
        ),
        Binding(
            "space",
            "scroll",
            "scroll",
            show=False,
            id="node.scroll",
            tooltip="Scroll the part; at its end, back to its start",
        ),
        Binding("w", "span", "longer", id="node.span", tooltip="Lines of 10 minutes, a day or a month"),
        Binding(
            "t", "timeline", "timeline", id="node.timeline", tooltip="Timeline of the rank on the GPU under the cursor"
        ),
        Binding(
            "e",
            "kernels",
            "kernels",
            show=False,
            id="node.kernels",
            tooltip="Kernels of the rank on the GPU under the cursor",
        ),
        Binding("o", "job", "job", id="node.job", tooltip="The job on the GPU under the cursor"),
        Binding(
            "left_square_bracket",
            "step(-1)",
            "previous node",
            show=False,
            id="node.previous",
            tooltip="Show the node before",
        ),
        Binding(
            "right_square_bracket", "step(1)", "next node", show=False, id="node.next", tooltip="Show the node after"
        ),
        Binding("y", "copy", "copy", show=False, id="node.copy", tooltip="Copy the part as text"),
    ]

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._node = place.node
        self._span = RECENT
        self._came = place.gpu is None

    def content(self) -> ComposeResult:
        """Heading, GPUs, what their lines are of, and the parts."""
        yield Static("", id="node")
        yield LiveTable(node_text.COLUMNS, id="node-gpus")
        yield Static("", id="grain")
        yield Parts(dict.fromkeys(PARTS), id="node-parts")

    def wanted(self) -> NodeView:
        """The chosen node, with lines over the chosen span."""
        return NodeView(self._node, self._span)

    def draw(self, shown: Node) -> None:
        """Bring everything up to the node; the parts as far as they are in front."""
        self.query_one("#node", Static).update(node_text.heading(shown))
        table = self.query_one("#node-gpus", LiveTable)
        table.show([(gpu.key, node_text.row(gpu, shown, self.size.width)) for gpu in shown.gpus])
        table.set_class(not shown.gpus, "empty")
        if not self._came and any(gpu.key == self.place.gpu for gpu in shown.gpus):
            self._came = True
            table.move_cursor(row=table.get_row_index(str(self.place.gpu)), animate=False)
        self.query_one("#grain", Static).update(f"past: {shown.span.grain}")
        self._mark(shown)
        self._say()

    def _mark(self, shown: Node) -> None:
        parts = self.query_one(Parts)
        grave = [each for each in shown.events if each.severity in ("critical", "warning")]
        parts.mark("programs", str(len(shown.processes) or ""))
        parts.mark("links", "!" if any(port.odd for port in shown.ports) else "")
        parts.mark("log", f"{len(grave)} !" if grave else "")
        parts.mark("agent", "!" if shown.agent is not None and shown.agent.troubles else "")
        parts.mark("replaced", str(len(shown.tenures) or ""))

    def _say(self) -> None:
        """Write the part in front."""
        shown, parts = self.shown, self.query_one(Parts)
        if shown is None:
            return
        words = {
            "overview": lambda: self._overview(shown),
            "gpu": lambda: node_text.at_length(self._gpu, shown, self.size.width),
            "programs": lambda: node_text.processes(shown),
            "links": lambda: node_parts.links(shown.ports),
            "log": lambda: node_parts.log(shown.events, shown.now_ns),
            "agent": lambda: node_parts.agent(shown),
            "replaced": lambda: node_parts.replaced(shown.tenures, shown.now_ns),
        }
        if parts.chosen in words:
            parts.say(parts.chosen, words[parts.chosen]())

    def _overview(self, shown: Node) -> Text:
        """What is odd; where the window is tall, what is in the next parts below it."""
        said = node_parts.overview(shown)
        if self.size.height < TALL:
            return said
        below = (
            node_text.at_length(self._gpu, shown, self.size.width),
            node_text.processes(shown),
            node_parts.links(shown.ports),
        )
        return Text("\n\n").join((said, *below))

    @property
    def _gpu(self) -> Gpu | None:
        """The GPU under the cursor."""
        key = self.query_one("#node-gpus", LiveTable).selected_key
        return next((gpu for gpu in self.shown.gpus if gpu.key == key), None) if self.shown is not None else None

    @on(Parts.TabActivated)
    @on(DataTable.RowHighlighted, "#node-gpus")
    def turned(self) -> None:
        """Another part, or another GPU."""
        self._say()

    @on(DataTable.RowSelected, "#node-gpus")
    def chosen(self) -> None:
        """Everything of the GPU under the cursor."""
        self.query_one(Parts).choose("gpu")

    def action_part(self, by: int) -> None:
        """Another part."""
        self.query_one(Parts).step(by)

    def action_scroll(self) -> None:
        """Further down in the part."""
        self.query_one(Parts).page_down()

    def action_span(self) -> None:
        """Lines over a longer time."""
        self._span = following(self._span)
        self.want()

    def action_step(self, by: int) -> None:
        """The node before or after."""
        nodes = self.shown.nodes if self.shown is not None else ()
        if self.shown is not None and self.shown.node in nodes:
            self._node = nodes[(nodes.index(self.shown.node) + by) % len(nodes)]
            self.want()

    def action_timeline(self) -> None:
        """What the rank on the GPU did when."""
        self._go("timeline")

    def action_kernels(self) -> None:
        """Where the time of the rank on the GPU goes."""
        self._go("kernels")

    def action_job(self) -> None:
        """The job on the GPU."""
        self._go("job")

    def _go(self, screen: str) -> None:
        gpu = self._gpu
        worker = self.shown.worker(gpu) if self.shown is not None and gpu is not None else None
        job = worker.job if worker is not None else gpu.job if gpu is not None else None
        if job is None:
            self.notify("no job is known on this GPU", severity="warning")
            return
        rank = worker.rank if worker is not None and screen != "job" else None
        self.post_message(Go(Place(screen, node=self.shown.node if self.shown else None, job=job, rank=rank)))

    def action_copy(self) -> None:
        """The part in front, as text."""
        parts = self.query_one(Parts)
        self.app.copy_to_clipboard(str(parts.query_one(f"#part-{parts.chosen}", Static).content))
        self.notify(f"copied: {parts.chosen}")
