from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Part(_message.Message):
    __slots__ = ("table", "source", "dropped", "rows", "unpacked_bytes", "payload", "encoding", "dictionary", "remember", "keyframe", "new_book")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    UNPACKED_BYTES_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    DICTIONARY_FIELD_NUMBER: _ClassVar[int]
    REMEMBER_FIELD_NUMBER: _ClassVar[int]
    KEYFRAME_FIELD_NUMBER: _ClassVar[int]
    NEW_BOOK_FIELD_NUMBER: _ClassVar[int]
    table: str
    source: str
    dropped: int
    rows: int
    unpacked_bytes: int
    payload: bytes
    encoding: int
    dictionary: int
    remember: int
    keyframe: int
    new_book: bool
    def __init__(self, table: _Optional[str] = ..., source: _Optional[str] = ..., dropped: _Optional[int] = ..., rows: _Optional[int] = ..., unpacked_bytes: _Optional[int] = ..., payload: _Optional[bytes] = ..., encoding: _Optional[int] = ..., dictionary: _Optional[int] = ..., remember: _Optional[int] = ..., keyframe: _Optional[int] = ..., new_book: bool = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("version", "agent", "boot", "sequence", "created_ns", "lost", "parts", "sent_ns")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    BOOT_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CREATED_NS_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    SENT_NS_FIELD_NUMBER: _ClassVar[int]
    version: int
    agent: str
    boot: str
    sequence: int
    created_ns: int
    lost: int
    parts: _containers.RepeatedCompositeFieldContainer[Part]
    sent_ns: int
    def __init__(self, version: _Optional[int] = ..., agent: _Optional[str] = ..., boot: _Optional[str] = ..., sequence: _Optional[int] = ..., created_ns: _Optional[int] = ..., lost: _Optional[int] = ..., parts: _Optional[_Iterable[_Union[Part, _Mapping]]] = ..., sent_ns: _Optional[int] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("boot", "sequence", "refused", "collector_ns", "credit_bytes", "packing", "received_ns")
    BOOT_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    COLLECTOR_NS_FIELD_NUMBER: _ClassVar[int]
    CREDIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    PACKING_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_NS_FIELD_NUMBER: _ClassVar[int]
    boot: str
    sequence: int
    refused: str
    collector_ns: int
    credit_bytes: int
    packing: int
    received_ns: int
    def __init__(self, boot: _Optional[str] = ..., sequence: _Optional[int] = ..., refused: _Optional[str] = ..., collector_ns: _Optional[int] = ..., credit_bytes: _Optional[int] = ..., packing: _Optional[int] = ..., received_ns: _Optional[int] = ...) -> None: ...

class QueryRequest(_message.Message):
    __slots__ = ("sql", "rows_max", "seconds_max")
    SQL_FIELD_NUMBER: _ClassVar[int]
    ROWS_MAX_FIELD_NUMBER: _ClassVar[int]
    SECONDS_MAX_FIELD_NUMBER: _ClassVar[int]
    sql: str
    rows_max: int
    seconds_max: float
    def __init__(self, sql: _Optional[str] = ..., rows_max: _Optional[int] = ..., seconds_max: _Optional[float] = ...) -> None: ...

class QueryPiece(_message.Message):
    __slots__ = ("payload", "truncated")
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    payload: bytes
    truncated: bool
    def __init__(self, payload: _Optional[bytes] = ..., truncated: bool = ...) -> None: ...

class CaptureWatch(_message.Message):
    __slots__ = ("node",)
    NODE_FIELD_NUMBER: _ClassVar[int]
    node: str
    def __init__(self, node: _Optional[str] = ...) -> None: ...

class CaptureRequest(_message.Message):
    __slots__ = ("id", "job", "rank", "what", "start_ns", "duration_ns", "reason")
    ID_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    START_NS_FIELD_NUMBER: _ClassVar[int]
    DURATION_NS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    id: str
    job: str
    rank: int
    what: str
    start_ns: int
    duration_ns: int
    reason: str
    def __init__(self, id: _Optional[str] = ..., job: _Optional[str] = ..., rank: _Optional[int] = ..., what: _Optional[str] = ..., start_ns: _Optional[int] = ..., duration_ns: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("version", "started_ns", "frames", "rows", "agents")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STARTED_NS_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    AGENTS_FIELD_NUMBER: _ClassVar[int]
    version: str
    started_ns: int
    frames: int
    rows: int
    agents: int
    def __init__(self, version: _Optional[str] = ..., started_ns: _Optional[int] = ..., frames: _Optional[int] = ..., rows: _Optional[int] = ..., agents: _Optional[int] = ...) -> None: ...
