"""Who may make which call: the role in the caller's certificate, looked at anew with each call; refusals are counted and told."""

from __future__ import annotations

import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from warpline_proto.batch import Frame
from warpline_proto.certificate import identity, parse
from warpline_proto.errors import ConfigError

from .audit import DENIED, DONE, Audit
from .callers import LOCAL, Caller, Role
from .certificates import Certificates
from .fleet import AGENTS_MAX
from .question import GRPC

TELL_SECONDS: Final = 60.0
"""The same refusal of the same caller is told once in so long."""
TOLD_MAX: Final = 1_000
"""Refusals that are remembered for that."""
ASKED_MAX: Final = 10
"""Requests of one frame that are named in the audit."""
WORDS_CHARS_MAX: Final = 300
CERTIFICATE: Final = "certificate"
ROLE: Final = "role"
NODE: Final = "node"
STRAYS: Final = "strays"
REASONS: Final = (CERTIFICATE, ROLE, NODE)
"""Why a call or a frame is refused: who calls is not to be told, may not do that, or speaks for another node."""
_LOG = logging.getLogger(__name__)


def caller_of(context: dict[str, Any], now_ns: int) -> Caller:
    """Who shows this certificate; ConfigError where it names no role, or its time is over. `context` is gRPC's auth context."""
    try:
        uris = tuple(bytes(uri).decode("ascii") for uri in context.get("peer_uri", ()))
        [pem] = context.get("x509_pem_cert", ())
    except (UnicodeDecodeError, ValueError) as error:
        raise ConfigError("there is no certificate that can be read") from error
    if parse(bytes(pem)).end_ns <= now_ns:
        raise ConfigError("the certificate has expired", "renew it with `warpline pki rotate`")
    return named(uris)


def named(uris: tuple[str, ...]) -> Caller:
    """The caller that these names of a certificate stand for; ConfigError where they name none."""
    role, name = identity(uris) or ("", "")
    if role not in list(Role):
        raise ConfigError("the certificate names no role of a caller", "`warpline pki issue` makes one that does")
    return Caller(name, Role(role), name if role == Role.AGENT else None)


@dataclass(frozen=True)
class Doors:
    """Who was not let in since the start, by reason, and what was left out of frames.

    With TLS also: over how many connections it was begun, and over how many somebody came; until when the certificate holds (ns
    since 1970), and why a newer one is not in use.
    """

    refused: Mapping[str, int]
    strays: int
    connections: int | None = None
    entered: int | None = None
    end_ns: int | None = None
    failure: str = ""
    agents: Mapping[str, int] = field(default_factory=dict)
    """Until when the certificate holds that each agent came with last, ns since 1970, by its node."""


class Admission:
    """Says of each call whether it may be made. Without certificates there is nobody but LOCAL."""

    def __init__(
        self,
        certificates: Certificates | None,
        audit: Audit,
        clock: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.refused: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        self.strays = 0
        """Rows left out because they speak of another node than their agent's."""
        self._certificates = certificates
        self._agents: dict[str, int] = {}
        self._clock = clock
        self._audit = audit
        self._monotonic = monotonic
        self._told: OrderedDict[tuple[str, str, str], float] = OrderedDict()

    async def admit(self, context: Any, wanted: str, *roles: Role, node: str | None = None) -> Caller:
        """The caller; ends the call where its role is not among `roles`, or it is an agent and `node` is not its own."""
        if self._certificates is None:
            return LOCAL
        self._certificates.enter(context.peer())
        try:
            caller = caller_of(context.auth_context(), self._clock())
        except ConfigError as error:
            self.refuse(None, CERTIFICATE, wanted, str(error), context.peer())
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
        if caller.role not in roles:
            why = f"{caller.role} {caller.name} may not {wanted}: {' or '.join(roles)} may"
            self.refuse(caller, ROLE, wanted, why)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, why)
        if node is not None and caller.node is not None and node != caller.node:
            why = f"agent {caller.node} may not {wanted} of node {node[:WORDS_CHARS_MAX]}"
            self.refuse(caller, NODE, wanted, why)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, why)
        return caller

    def seconds_left(self, context: Any, caller: Caller) -> float | None:
        """How long the caller's certificate holds from now on; None without one."""
        if self._certificates is None:
            return None
        [pem] = context.auth_context()["x509_pem_cert"]
        end_ns = parse(bytes(pem)).end_ns
        if caller.node is not None and (caller.node in self._agents or len(self._agents) < AGENTS_MAX):
            self._agents[caller.node] = end_ns
        return max(end_ns - self._clock(), 0) / 1e9

    def took(self, caller: Caller, frame: Frame, strays: int) -> None:
        """A frame is taken: note what an operator asked for, and rows of other nodes that were left out of it."""
        if strays:
            self.strays += strays
            self._tell(caller, STRAYS, "push", f"{strays} rows of a frame speak of other nodes and are left out")
        if caller.role is Role.OPERATOR and caller is not LOCAL:
            rows = [row for batch in frame.batches for row in batch.rows.slice(0, ASKED_MAX).to_pylist()]
            asked = ", ".join(f"{row['what']} of rank {row['rank']} of job {row['job']}" for row in rows)
            self._audit.note(caller, GRPC, "capture", DONE, asked[:WORDS_CHARS_MAX])

    def doors(self, certificates: Certificates | None) -> Doors:
        """The counts of now."""
        refused = dict(self.refused)
        if certificates is None:
            return Doors(refused, self.strays)
        held = certificates
        agents = dict(self._agents)
        return Doors(refused, self.strays, held.connections, held.entered, held.end_ns, held.failure, agents)

    def refuse(self, caller: Caller | None, reason: str, wanted: str, why: str, peer: str = "") -> None:
        """Count a refusal; tell of it unless the same was told lately."""
        self.refused[reason] += 1
        if self._tell(caller, reason, wanted, why, peer):
            self._audit.note(caller, GRPC, wanted, DENIED, peer, why[:WORDS_CHARS_MAX])

    def _tell(self, caller: Caller | None, reason: str, wanted: str, why: str, peer: str = "") -> bool:
        """Whether it is told this time."""
        who = peer.rpartition(":")[0] if caller is None else f"{caller.role}/{caller.name}"
        now = self._monotonic()
        if now - self._told.get((who, reason, wanted), -TELL_SECONDS) < TELL_SECONDS:
            return False
        self._told[who, reason, wanted] = now
        self._told.move_to_end((who, reason, wanted))
        while len(self._told) > TOLD_MAX:
            self._told.popitem(last=False)
        _LOG.warning("%s by %s: %s", wanted, who, why[:WORDS_CHARS_MAX])
        return True
