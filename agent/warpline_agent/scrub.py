"""Takes secrets out of text that must be passed on: access tokens, keys, passwords, authorisation headers, private keys.

A source that reads foreign files takes only the members it knows by name. Whatever text it passes on all the same (kernel
names, log lines, labels) goes through here before it leaves the agent: whoever drives the sources calls `scrub_rows`, and a
source that cuts text short calls `scrub` before it cuts. What is found is replaced by MASK, so that one sees where it stood.
The patterns are bounded, so that no text makes them slow.
"""

from __future__ import annotations

import re
from typing import Any, Final

import pyarrow as pa

MASK: Final = "[secret]"

_WORD: Final = (
    r"(?:TOKEN|SECRET(?:[-_]?KEY)?(?:[-_]?BASE)?|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?"
    r"|(?:API|ACCESS|PRIVATE|AUTH|ACCOUNT|ENCRYPTION|SIGNING|MASTER)[-_]?KEY"
    r"|(?:DB|PG|MYSQL|REDIS|SMTP|FTP|PROXY|USER|ADMIN|ROOT|LOGIN)[-_]?(?:PASS|PWD))"
)
_VALUE: Final = r"""(?:\\?"(?:[^"\\\n]|\\[^"])*(?:\\?")?|'[^'\n]*'?|[^\s,;&"'\\}\]]+)"""
# NAME_TOKEN=value, "name_token": "value", --api-key value; never C++ scopes (`token::`) or comparisons (`token==`).
_ASSIGNED: Final = re.compile(rf"""({_WORD}\\?["']?\s*[:=](?![:=])\s*)(?!\[secret\]){_VALUE}""", re.IGNORECASE)
_FLAG: Final = re.compile(rf"((?<!-)--[\w-]{{0,64}}?{_WORD}\s+){_VALUE}", re.IGNORECASE)
_HEADER: Final = re.compile(
    r"""(\b(?:proxy-)?authorization\\?["']?\s*[:=]\s*\\?["']?)(?:(?:bearer|basic|token|digest|negotiate)\s+)?[^\s"',;\\]+""",
    re.IGNORECASE,
)
_BEARER: Final = re.compile(r"(\bbearer\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
# A user and a password, or a user so long that it is a token.
_URL: Final = re.compile(r"(\b[a-z][a-z0-9+.-]{0,20}://)(?:[^\s/@:\"']*:[^\s/@\"']+|[^\s/@:\"']{20,})@", re.IGNORECASE)
_SIGNED: Final = re.compile(r"([?&](?:sig|signature|x-(?:amz|goog)-signature)=)[^&\s\"']+", re.IGNORECASE)
_PRIVATE_KEY: Final = re.compile(
    r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)", re.DOTALL
)
_SHAPES: Final = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"hf_[A-Za-z0-9]{16,}"  # Hugging Face
    r"|(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}"  # AWS
    r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}"  # GitHub
    r"|glpat-[A-Za-z0-9_-]{16,}"  # GitLab
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,}"  # Slack
    r"|sk-[A-Za-z0-9_-]{20,}"  # OpenAI, Anthropic
    r"|nvapi-[A-Za-z0-9_-]{20,}"  # NVIDIA
    r"|AIza[A-Za-z0-9_-]{30,}|ya29\.[A-Za-z0-9_-]{20,}"  # Google
    r"|pypi-[A-Za-z0-9_-]{20,}|npm_[A-Za-z0-9]{30,}"  # registries
    r"|eyJ[A-Za-z0-9_-]{8,2048}\.[A-Za-z0-9_-]{8,8192}\.[A-Za-z0-9_-]*"  # JSON web tokens
    r")"
)
_HINT: Final = re.compile(
    rf"{_WORD}|authorization|bearer|://[^\s/]*@|PRIVATE KEY|[?&](?:sig|x-)"
    r"|hf_|A[KSBC][IC]A|gh[pousr]_|github_pat_|glpat-|xox|sk-|nvapi-|AIza|ya29|pypi-|npm_|eyJ",
    re.IGNORECASE,
)


def scrub(text: str) -> str:
    """`text` with every secret that has a known shape or a telling name replaced by MASK; the rest stays as it is."""
    if not _HINT.search(text):
        return text
    text = _PRIVATE_KEY.sub(MASK, text)
    text = _HEADER.sub(rf"\1{MASK}", text)
    text = _BEARER.sub(rf"\1{MASK}", text)
    text = _URL.sub(rf"\1{MASK}@", text)
    text = _SIGNED.sub(rf"\1{MASK}", text)
    text = _SHAPES.sub(MASK, text)
    text = _FLAG.sub(rf"\1{MASK}", text)
    return _ASSIGNED.sub(rf"\1{MASK}", text)


def scrub_rows(rows: pa.RecordBatch) -> pa.RecordBatch:
    """`scrub` on every text of a batch, lists of text included; a batch without a secret comes back as it is."""
    given = rows.columns
    columns = [_column(column) for column in given]
    if all(new is old for new, old in zip(columns, given, strict=True)):
        return rows
    return pa.RecordBatch.from_arrays(columns, schema=rows.schema)


def _column(column: pa.Array) -> pa.Array:
    if pa.types.is_string(column.type):
        encoded = column.dictionary_encode()
        known = encoded.dictionary.to_pylist()
        cleaned = [scrub(text) for text in known]
        return column if cleaned == known else pa.array(cleaned, column.type).take(encoded.indices)
    if pa.types.is_list(column.type) and pa.types.is_string(column.type.value_type):
        lists: list[Any] = column.to_pylist()
        cleaned_lists = [each and [text and scrub(text) for text in each] for each in lists]
        return column if cleaned_lists == lists else pa.array(cleaned_lists, column.type)
    return column
