"""The app: which page is in front, what time is looked at, and the questions that are asked off the screen's thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from textual import on, work
from textual.app import App
from textual.binding import Binding
from textual.worker import get_current_worker

from warpline_proto.errors import ConfigError, WarplineError

from .ahead import Ahead
from .answers import Answers
from .bindings import Group, declared, keymap, keys
from .console.catalogue import Console
from .faults import Faults
from .harmless import Harmless
from .help import Help
from .place import Go, Place, Stop
from .power import Prices
from .prompt import LinePrompt
from .screens import SCREENS
from .screens.page import Page, Wants
from .settings import Tui
from .sheet import Sheet
from .themes import DARK, THEMES
from .travel import LEAP_SECONDS, STEP_SECONDS, Travel, moment_ns
from .view import Ask, Moment, Query, View
from .views.headline import Headline, HeadlineView, newest
from .views.names import Names, NamesView
from .widgets.status import Standing, Status
from .words import moment

if TYPE_CHECKING:
    from textual.command import Provider
    from textual.filter import LineFilter
    from textual.notifications import SeverityLevel

MOMENT_HINT: Final = "-15m, -2h, 14:05 or 2026-01-31T12:00:00, in UTC. Enter goes there, escape leaves it."
FIRST_SCREEN: Final = "fleet"
DEPTH_MAX: Final = 12
"""So many pages lie on top of each other at most; a further one takes the place of the topmost."""
BACK_MAX: Final = 16
"""So many screens are remembered to go back to."""
Shown = TypeVar("Shown")


def _places() -> type[Provider]:
    """What the command palette finds, loaded when it opens."""
    from .palette import Places

    return Places


@dataclass(frozen=True)
class Question:
    """A view asked at a moment, for a page (None: for the status line)."""

    view: View[Any]
    moment: Moment
    page: Page[Any] | None = None

    @property
    def kind(self) -> str:
        """Of each kind one is under way at a time."""
        return type(self.view).__name__


class WarplineApp(App[None]):
    """Asks `query` for what the page in front wants, each `refresh_seconds` while the newest is looked at, and once where a past
    moment is. A slow answer makes the data older, never the keys slower.

    `clock` gives ns since the epoch; over what is `recorded` (nothing newer comes) the newest reading is now. SQL of the user's
    own goes to `console`. `operator` lets pages offer what changes something; `command` runs the words of a command of warpline
    and gives what it said. It begins at the past moment `at_ns`; what was asked `ahead` of that is not asked twice. ConfigError
    where [tui.keys] of the `settings` cannot be used.
    """

    TITLE = "warpline"
    CSS_PATH = "app.tcss"
    COMMANDS = App.COMMANDS | {_places}
    BINDINGS = [
        *(
            Binding(entry.keys, f"show('{name}')", name, id=f"show.{name}", tooltip=entry.about)
            for name, entry in SCREENS.items()
            if entry.keys
        ),
        Binding("escape,backspace", "back", "back", show=False, id="back", tooltip="Go back to where you came from"),
        Binding(
            "p", "pause", "pause", show=False, id="time.pause", tooltip="Stop time; again: let it go on from there"
        ),
        Binding("<", f"step(-{STEP_SECONDS})", "-10 s", show=False, id="time.back", tooltip="10 s back"),
        Binding(">", f"step({STEP_SECONDS})", "+10 s", show=False, id="time.forward", tooltip="10 s forward"),
        Binding("{", f"step(-{LEAP_SECONDS})", "-10 min", show=False, id="time.far_back", tooltip="10 min back"),
        Binding("}", f"step({LEAP_SECONDS})", "+10 min", show=False, id="time.far_forward", tooltip="10 min forward"),
        Binding("@", "go_to_moment", "at", show=False, id="time.at", tooltip="Go to a moment: -15m, 14:05 or a date"),
        Binding("L", "live", "live", show=False, id="time.live", tooltip="Follow the newest again"),
        Binding("question_mark", "help", "help", id="help", tooltip="Every key"),
        Binding("q", "quit", "quit", id="quit", tooltip="Leave"),
    ]

    def __init__(
        self,
        query: Query,
        *,
        clock: Callable[[], int] = time.time_ns,
        prices: Prices | None = None,
        console: Console | None = None,
        first: str = FIRST_SCREEN,
        recorded: bool = False,
        operator: bool = False,
        command: Callable[[Sequence[str]], str] | None = None,
        at_ns: int | None = None,
        settings: Tui | None = None,
        ahead: Ahead | None = None,
    ) -> None:
        super().__init__()
        self.stylesheet = Sheet(self.get_css_variables())
        self._settings = Tui(theme=DARK) if settings is None else settings
        for theme in THEMES:
            self.register_theme(theme)
        self.theme = self._settings.theme or DARK
        if self._settings.keys:
            self.set_keymap(keymap(declared(self.BINDINGS), self._settings.keys))
        self.operator = operator and command is not None
        self._command = command
        self._harmless = Harmless()
        self.faults = Faults()
        """What was warpline's own fault, for whoever opened it."""
        self._clock = clock
        self._prices = prices
        self._console = console
        self._first = first
        self._recorded = recorded
        self._ahead = ahead
        self._answers = Answers(query, clock) if ahead is None else ahead.answers
        self._travel = Travel(Moment(at_ns))
        self._headline = Headline()
        self._last_ns: int | None = None
        self._under_way: dict[str, tuple[Question, int]] = {}
        self._answered: dict[str, Question] = {}
        self._errors: dict[str, str] = {}
        self._visited: list[str] = []
        self._is_switching = False
        for name, entry in SCREENS.items():
            self.add_mode(name, partial(entry.open, Place(name)))

    async def on_mount(self) -> None:
        """Go to the first screen and start asking."""
        await self._switch(self._first)
        self.set_interval(self._settings.refresh_seconds, self._tick)

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Every line is drawn without what a name could do to the terminal."""
        return (*super().get_line_filters(), self._harmless)

    def notify(
        self,
        message: str,
        *,
        title: str = "",
        severity: SeverityLevel = "information",
        timeout: float | None = None,
        markup: bool = False,
    ) -> None:
        """Tell something as it is: it may hold names, and in these brackets are no markup."""
        super().notify(message, title=title, severity=severity, timeout=timeout, markup=False)

    def run_command(self, words: Sequence[str]) -> None:
        """Run `warpline WORDS` beside the screen, and tell what it says when it ends; only of an operator."""
        if self.operator:
            self.notify(f"Sent: warpline {' '.join(words)}")
            self._run(words)

    @work(thread=True)
    def _run(self, words: Sequence[str]) -> None:
        said = "" if self._command is None else self._command(words)
        if not get_current_worker().is_cancelled:
            self.call_from_thread(self.notify, said)

    @property
    def page(self) -> Page[Any] | None:
        """The page in front, whatever lies on top of it."""
        return next((screen for screen in reversed(self.screen_stack) if isinstance(screen, Page)), None)

    async def action_show(self, name: str) -> None:
        """Go to a screen; there already, come back from whatever was opened on top of it."""
        if name == self.current_mode:
            while len(self.screen_stack) > 1:
                await self.pop_screen()
            return
        self._visited = [*self._visited, self.current_mode][-BACK_MAX:]
        await self._switch(name)

    async def _switch(self, name: str) -> None:
        """Bring a screen to the front, and draw it as soon as its widgets are there: what it showed last is in them."""
        with self.batch_update():
            self._is_switching = True
            try:
                switched = self.switch_mode(name)
            finally:
                self._is_switching = False
            self.ask()  # while the widgets of a page that was never opened are made
            await switched

    def delay_update(self, delay: float = 0.05) -> None:
        """Draw nothing for so long; to bring a screen to the front Textual would take 50 ms for whatever there may be to hide."""
        if not self._is_switching:
            super().delay_update(delay)

    @on(Go)
    async def go(self, message: Go) -> None:
        """Open a page on top of this one."""
        page = SCREENS[message.place.screen].open(message.place)
        opened = self.push_screen(page) if len(self.screen_stack) < DEPTH_MAX else self.switch_screen(page)
        self.ask()
        await opened

    @on(Stop)
    def stop_statement(self) -> None:
        """End the statement of the user's own that runs, if one does."""
        if self._console is not None:
            self._console.stop()

    def on_unmount(self) -> None:
        """Leave nothing running that would have to be waited for."""
        self.stop_statement()

    async def action_help(self) -> None:
        """Every key, those that work here first."""
        groups = await asyncio.to_thread(declared, self.BINDINGS)  # loads the screens that nobody looked at yet
        active = {each.binding.id for each in self.screen.active_bindings.values()}
        here = [each for group in groups[1:] for each in group.bindings if each.id in active]
        self.push_screen(Help((Group("here", tuple(here)), *groups), self._written))

    def _written(self, binding: Binding) -> str:
        """The keys of a binding as they are written on keyboards."""
        listed = keys(binding, self._settings.keys)
        return " ".join(self.get_key_display(binding.with_key(key)) for key in listed)

    async def names(self) -> Names:
        """What there is to go to; empty where it cannot be asked for."""
        found, _ = await asyncio.to_thread(self._answer, "what there is to go to", NamesView(), self._travel.moment)
        return Names() if found is None else found

    async def action_back(self) -> None:
        """Go back to where one came from."""
        if len(self.screen_stack) > 1:
            await self.pop_screen()
        elif self._visited:
            await self._switch(self._visited.pop())

    def action_pause(self) -> None:
        """Stop time, or let it go on from where it was stopped."""
        self._go_to(self._travel.paused(self._newest_ns()))

    def action_step(self, seconds: int) -> None:
        """So far forward or back in time."""
        self._go_to(self._travel.stepped(seconds, self._newest_ns()))

    def action_live(self) -> None:
        """Follow the newest again."""
        self._go_to(Travel())

    def action_go_to_moment(self) -> None:
        """Ask for a moment and go there."""
        self._ask_for_moment("", MOMENT_HINT)

    def _ask_for_moment(self, written: str, hint: str) -> None:
        question = f"Go to which moment? It is {moment(self._newest_ns())}."
        self.push_screen(LinePrompt(question, hint, written), self._came_to)

    def _came_to(self, written: str | None) -> None:
        if not written:
            return
        newest_ns = self._newest_ns()
        try:
            at_ns = moment_ns(written, newest_ns)
            if at_ns > newest_ns:
                raise ConfigError(
                    f"{moment(at_ns)} is after all there is", "14:05 is today's: write another day's date"
                )
        except ConfigError as error:
            self._ask_for_moment(written, str(error))
        else:
            self._go_to(Travel(Moment(at_ns)))

    def _go_to(self, travel: Travel) -> None:
        self._travel = travel
        self.ask()

    def _newest_ns(self) -> int:
        """The time that live stands for."""
        if self._recorded and self._last_ns is not None:
            return self._last_ns
        return self._clock()

    def _tick(self) -> None:
        self._travel = self._travel.ticked(int(self._settings.refresh_seconds * 1e9), self._newest_ns())
        self.ask(again=self._travel.moment.at_ns is None)

    @on(Wants)
    def wanted(self) -> None:
        """A page wants something else."""
        self.ask()

    def ask(self, again: bool = False) -> None:
        """Ask for what is wanted and was not answered yet, or `again`."""
        page = self.page
        if page is not None:
            self._put(Question(page.wanted(), self._travel.moment, page), again)
            self._put(Question(HeadlineView(), self._travel.moment), again)
        self._draw_status()

    def _put(self, question: Question, again: bool) -> None:
        known = self._answered.get(question.kind) == question and question.kind not in self._errors
        if question.kind not in self._under_way and (again or not known):
            self._under_way[question.kind] = (question, self._clock())
            self._take(question)

    @work(thread=True)
    def _take(self, question: Question) -> None:
        what = "the line on top" if question.page is None else question.page.place.screen
        shown, error = self._answer(what, question.view, question.moment)
        if not get_current_worker().is_cancelled:
            self.call_from_thread(self._arrived, question, shown, error)

    def _answer(self, what: str, view: View[Shown], moment: Moment) -> tuple[Shown | None, str | None]:
        """What a view gives, or in one line why it gives nothing."""
        begun = None if self._ahead is None else self._ahead.taken(view, moment)
        try:
            return (view.take(self._ask_at(moment)) if begun is None else begun.result()), None
        except WarplineError as failure:
            return None, " ".join(str(failure).split())
        except Exception as failure:  # the rim: one question must not end a screen left open for days
            return None, self.faults.line(f"{what} cannot be asked for", failure)

    def _ask_at(self, moment: Moment) -> Ask:
        asked = Ask(self._answers, self._clock(), moment, self._prices, self._console)
        if self._recorded and moment.at_ns is None:
            return Ask(self._answers, newest(asked) or self._clock(), moment, self._prices, self._console)
        return asked

    def _arrived(self, question: Question, shown: Any, error: str | None) -> None:
        del self._under_way[question.kind]
        self._answered[question.kind] = question
        if error is None:
            self._errors.pop(question.kind, None)
            self._show(question, shown)
        else:
            self._errors[question.kind] = error
        wanted = Question(
            question.view if question.page is None else question.page.wanted(), self._travel.moment, question.page
        )
        if wanted != question and (question.page is None or question.page is self.page):
            self._put(wanted, again=True)
        self._draw_status()

    def _show(self, question: Question, shown: Any) -> None:
        if question.page is None:
            self._headline = shown
            if question.moment.at_ns is None:
                self._last_ns = shown.newest_ns
        elif question.page.wanted() == question.view and self._travel.shows(question.moment):
            question.page.show(shown)

    def _draw_status(self) -> None:
        page = self.page
        if page is None or not page.is_whole:
            return
        now_ns = self._clock()
        since = {kind: (now_ns - put_ns) / 1e9 for kind, (_, put_ns) in self._under_way.items()}
        kind = type(page.wanted()).__name__
        page.query_one(Status).standing = Standing(
            headline=self._headline,
            travel=self._travel,
            now_ns=self._newest_ns(),
            recorded=self._recorded,
            waiting=(page.place.screen, since[kind]) if kind in since else None,
            error=self._errors.get(kind) or self._undrawn(page) or self._errors.get(HeadlineView.__name__),
        )

    def _undrawn(self, page: Page[Any]) -> str | None:
        return None if page.failure is None else self.faults.line(f"{page.place.screen} cannot be drawn", page.failure)
