"""Communicators that lost bandwidth together: is there one node whose network explains them all?

All that cross the node's network are slower, none that does not cross it is, and the slow ones meet nowhere else: then one
communicator alone cannot be the matter, and no other node can (group testing, Dorfman 1943).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def shared_node(crossed: Mapping[str, frozenset[str]], lost: Iterable[str], slower: Iterable[str]) -> str | None:
    """The one node that explains all communicators in `lost`, or None.

    `crossed` gives the nodes of every judged communicator that reaches more than one; `slower` those that carry less, though
    perhaps not by so much as those in `lost`.
    """
    found, suffering = set(lost), set(slower) | set(lost)
    if len(found) < 2 or not found <= crossed.keys():
        return None
    common = frozenset.intersection(*(crossed[name] for name in found))
    explaining = [
        node for node in sorted(common) if all(name in suffering for name, nodes in crossed.items() if node in nodes)
    ]
    return explaining[0] if len(common) == len(explaining) == 1 else None
