"""What an Xid code means, in the few words that stand beside a line of the kernel log.

After NVIDIA's catalogue (docs.nvidia.com/deploy/xid-errors). What to do about one is told by the finding that it leads to.
"""

from __future__ import annotations

from typing import Final

XIDS: Final = {
    13: "graphics engine exception: usually an illegal access of the program",
    31: "memory page fault: usually an illegal address of the program",
    43: "the program's channel was stopped",
    45: "the driver removed a channel, cleaning up after a program",
    46: "the GPU stopped processing",
    48: "uncorrectable memory error (double bit)",
    61: "internal micro-controller warning",
    62: "internal micro-controller halted",
    63: "a bad memory row was marked for remapping",
    64: "a bad memory row could not be remapped",
    68: "video decoder exception",
    69: "graphics engine class error",
    74: "NVLink error",
    79: "fell off the bus",
    92: "high rate of single-bit memory errors",
    94: "contained uncorrectable memory error: only the program was hit",
    95: "uncontained uncorrectable memory error",
    109: "context switch timed out",
    110: "security fault",
    119: "the GPU's system processor (GSP) does not answer",
    120: "error in the GPU's system processor (GSP)",
    136: "NVLink training failed",
    140: "unrecovered memory error",
    143: "GPU initialisation error",
    144: "NVLink error (SAW)",
    145: "NVLink error (RLW)",
    146: "NVLink error (TLW)",
    147: "NVLink error (TREX)",
    148: "NVLink error (NVLPW control)",
    149: "NVLink error (NETIR)",
    150: "NVLink error (MSE)",
    154: "the driver now asks for a recovery action",
    155: "NVLink error found by software",
    156: "a faulty part of the GPU was retired",
    157: "a faulty part of the GPU could not be retired",
    158: "fatal timeout in the GPU",
}


def meaning(kind: str | None, code: int | None) -> str:
    """What a line of the log is about: `Xid 79: fell off the bus`; of other lines their kind."""
    if kind == "xid" and code is not None:
        return f"Xid {code}: {XIDS.get(code, 'see not in this list, see the Xid catalogue of NVIDIA')}"
    named = (kind or "line").replace("_", " ")
    return named if code is None else f"{named} {code}"
