"""Secrets never leave: known shapes and telling names are masked, everything else stays as it is."""

from __future__ import annotations

import pytest

from warpline_agent.scrub import MASK, scrub

HF = "hf_" + "Qw3rTy" * 5
AWS = "AKIA" + "IOSFODNN7EXAMPLE"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abc-def_123"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"loading with {HF} now", HF),
        (f'{{"HF_TOKEN": "{HF}", "rank": 3}}', HF),
        ("HUGGING_FACE_HUB_TOKEN=abc123def", "abc123def"),
        ('{"env": {"WANDB_API_KEY": "0123456789abcdef"}}', "0123456789abcdef"),
        ('\\"MY_SECRET\\": \\"value with blanks\\"', "value with blanks"),
        ("MODAL_TASK_SECRET='quoted value' next", "quoted value"),
        (f"{AWS} is the key", AWS),
        (
            "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        ),
        ("Authorization: Bearer abcdefgh.ijkl", "abcdefgh.ijkl"),
        ('"authorization": "Basic dXNlcjpwYXNz"', "dXNlcjpwYXNz"),
        ("--api-key s3cr3tvalue --rank 3", "s3cr3tvalue"),
        ("https://user:pa55word@example.org/path", "pa55word"),
        ("ghp_" + "a1B2" * 9, "a1B2" * 9),
        (f"cookie {JWT}", JWT),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIabc\n-----END RSA PRIVATE KEY-----", "MIIabc"),
        ("DB_PASSWORD=hunter2;x", "hunter2"),
        ("S3_SECRET_KEY=abc123 next", "abc123"),
        ("MYSQL_PWD=hunter2", "hunter2"),
        ("AccountKey=Zm9vYmFy==;EndpointSuffix=x", "Zm9vYmFy"),
        ("git clone https://0123456789abcdef0123456789@example.org/x", "0123456789abcdef0123456789"),
        ("https://store.example.org/a?se=1&sig=abc%2Fdef", "abc%2Fdef"),
    ],
)
def test_secrets_are_masked(text: str, secret: str) -> None:
    """The secret is gone and one sees where it stood."""
    cleaned = scrub(text)
    assert secret not in cleaned
    assert MASK in cleaned


@pytest.mark.parametrize(
    "text",
    [
        "void moe::token::permute<TokenType, 8>(int const*, TokenType::value)",
        "void at::native::elementwise_kernel<128, 2>(int, at::native::ReLU)",
        "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
        "max_tokens=4096 prompt_tokens: 17",
        "static_assert(kToken == 4)",
        "http://127.0.0.1:9400/metrics",
        "ssh://build@node17/home PWD=/home/build backward_pass: 0.3",
        "nid008553:1701896:1701896 [0] NCCL INFO Bootstrap : Using hsn0:10.249.0.1<0>",
    ],
)
def test_ordinary_text_is_untouched(text: str) -> None:
    """Kernel names, log lines and addresses are not eaten."""
    assert scrub(text) == text


def test_what_stands_beside_a_secret_survives() -> None:
    """Only the value goes."""
    assert scrub(f"rank 3 HF_TOKEN={HF} step 7") == f"rank 3 HF_TOKEN={MASK} step 7"


def test_a_long_hostile_text_is_done_at_once() -> None:
    """Text made to backtrack does not hold up the agent: the work grows with its length."""
    assert MASK not in scrub("token" + "-token" * 2000 + "a" * 20000)
