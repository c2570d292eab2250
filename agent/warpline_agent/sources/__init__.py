"""Every source by name: SOURCES are read live, FORMATS and TREE_FORMATS from files. One line each."""

from __future__ import annotations

from ..source import Format, Source, TreeFormat

SOURCES: dict[str, type[Source]] = {}

FORMATS: tuple[Format, ...] = ()
"""Recorded formats, most specific first: the first that recognises a file reads it."""

TREE_FORMATS: tuple[TreeFormat, ...] = ()
