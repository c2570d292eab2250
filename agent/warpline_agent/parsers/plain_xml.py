"""An XML reader for measurements: elements and text within limits, no entity of the document's own, nothing fetched."""

from __future__ import annotations

from typing import BinaryIO, Final
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from warpline_proto.errors import Refused

ELEMENTS_MAX: Final = 1_000_000
DEPTH_MAX: Final = 64
BYTES_MAX: Final = 64 * 1024 * 1024
"""Bytes of one document; a node of eight GPUs has less than one hundredth."""
READ_BYTES: Final = 256 * 1024

HINT: Final = "measurements need no entities and no references to other files"


class _Limits:
    """Builds the tree and refuses what no measurement needs. Elements named in `skip` are left out with all below them."""

    def __init__(self, skip: frozenset[str]) -> None:
        self._builder = TreeBuilder()
        self._skip = skip
        self._open: list[str] = []
        self._skipping: int | None = None
        self._elements = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._elements += 1
        self._open.append(name)
        if self._elements > ELEMENTS_MAX or len(self._open) > DEPTH_MAX:
            raise Refused(f"is XML of more than {ELEMENTS_MAX} elements or nested deeper than {DEPTH_MAX}")
        if self._skipping is None and name in self._skip:
            self._skipping = len(self._open)
        if self._skipping is None:
            self._builder.start(name, attributes)

    def end(self, name: str) -> None:
        if self._skipping is None:
            self._builder.end(name)
        elif self._skipping == len(self._open):
            self._skipping = None
        self._open.pop()

    def data(self, text: str) -> None:
        if self._skipping is None:
            self._builder.data(text)

    def entity(self, name: str, *_: object) -> None:
        raise Refused(f"is XML that declares an entity of its own ({name[:100]})", HINT)

    def external(self, *_: object) -> int:
        raise Refused("is XML that refers to an external entity", HINT)

    def close(self) -> Element:
        return self._builder.close()


def load(stream: BinaryIO, skip: frozenset[str] = frozenset()) -> Element:
    """An XML document -> its root. Damage, entities and anything past the limits is Refused with a reason."""
    limits = _Limits(skip)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = limits.start
    parser.EndElementHandler = limits.end
    parser.CharacterDataHandler = limits.data
    parser.EntityDeclHandler = limits.entity
    parser.ExternalEntityRefHandler = limits.external
    parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
    seen = 0
    try:
        while chunk := stream.read(READ_BYTES):
            seen += len(chunk)
            if seen > BYTES_MAX:
                raise Refused(f"is XML of more than {BYTES_MAX:,} bytes")
            parser.Parse(chunk, False)
        parser.Parse(b"", True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise Refused(f"is damaged XML: {error}", "the file is cut off or was edited by hand") from None
    return limits.close()
