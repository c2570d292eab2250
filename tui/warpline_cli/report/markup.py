"""HTML that is put together by calls: text is escaped unless it is known to be HTML."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Final

from ..findings_text import one_line

VOID: Final = frozenset({"meta", "link", "br"})


class Html(str):
    """Text that is HTML already."""


def tag(name: str, /, *children: str | None, **attributes: str) -> Html:
    """An element. Children that are not Html are escaped, None is nothing; `class_` stands for class, `_` for a hyphen."""
    told = "".join(f' {key.rstrip("_").replace("_", "-")}="{shown(value)}"' for key, value in attributes.items())
    opened = f"<{name}{told}>"
    return Html(opened) if name in VOID else Html(f"{opened}{joined(children)}</{name}>")


def joined(children: Iterable[str | None]) -> Html:
    """Children one behind the other."""
    return Html("".join(each if isinstance(each, Html) else shown(each) for each in children if each is not None))


def shown(text: str) -> Html:
    """Text as a reader sees it: nothing in it is markup, and no character moves what stands around it."""
    kept = "\n".join(one_line(line) for line in text.split("\n"))
    return Html(html.escape(kept))


def table(heading: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[bool] = (), **attributes: str) -> Html:
    """Rows of equally many cells; `right` says which columns are numbers."""
    sides = list(right) or [False] * len(heading)
    head = tag("tr", *(tag("th", each, **_side(side)) for each, side in zip(heading, sides, strict=True)))
    body = (tag("tr", *(tag("td", each, **_side(side)) for each, side in zip(row, sides, strict=True))) for row in rows)
    return tag("div", tag("table", tag("thead", head), tag("tbody", *body), **attributes), class_="wide")


def folded(title: str, *children: str | None) -> Html:
    """What is seen when it is asked for; needs no script."""
    return tag("details", tag("summary", title), *children)


def _side(right: bool) -> dict[str, str]:
    return {"class_": "number"} if right else {}
