"""What an Xid code says about a GPU, how grave it is, and what to do: one table.

Codes and remedies after NVIDIA's catalogue (docs.nvidia.com/deploy/xid-errors, "Analyzing Xid Errors with the Xid Catalog").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from warpline_proto.finding import Severity

CRITICAL, WARNING, INFO = Severity.CRITICAL, Severity.WARNING, Severity.INFO

GONE: Final = (
    "drain the node, power-cycle it (a reset over PCIe does not reach a GPU that is off the bus), reseat the GPU and check "
    "power and riser; replace it if it happens again"
)
RESET: Final = (
    "drain the GPU, end its programs, then nvidia-smi --gpu-reset (or reboot the node); replace it if it happens again"
)
MEMORY: Final = (
    "drain the GPU, reset it so that the bad memory is remapped, read nvidia-smi -q -d ROW_REMAPPER,ECC and run the field "
    "diagnostics; replace it if rows can no longer be remapped"
)
SOON: Final = (
    "nothing at once: reset the GPU in the next maintenance window and watch nvidia-smi -q -d ROW_REMAPPER,ECC for more"
)
LINK: Final = (
    "read nvidia-smi nvlink -e and the fabric manager's log, drain the node and reset its GPUs together; if the same link "
    "returns, reseat or replace GPU, bridge or switch tray"
)
FIRMWARE: Final = (
    "drain the node and reset the GPU (reboot where the reset fails); if it comes back, update driver and firmware, then have "
    "the GPU checked"
)
TOLD: Final = "do what the message says (nvidia-smi -q, GPU Recovery Action), and look for the Xid just before it"
PROGRAM: Final = (
    "look at the program first (illegal address, assertion; compute-sanitizer names the line); suspect the GPU only if "
    "different programs fail on this one alone"
)
UNLISTED: Final = "look the code up in NVIDIA's Xid catalogue and watch the GPU"


@dataclass(frozen=True)
class Xid:
    """`severity` None: the message itself says whether it was fatal. `program`: usually the program's fault or its clean-up."""

    meaning: str
    severity: Severity | None
    next_step: str
    program: bool = False


XIDS: Final = {
    13: Xid("graphics engine exception: usually an illegal access of the program", INFO, PROGRAM, program=True),
    31: Xid("memory page fault: usually an illegal address of the program", INFO, PROGRAM, program=True),
    43: Xid("the program's channel was stopped", INFO, PROGRAM, program=True),
    45: Xid("the driver removed a channel, cleaning up after a program", INFO, PROGRAM, program=True),
    46: Xid("the GPU stopped processing", CRITICAL, RESET),
    48: Xid("uncorrectable memory error (double bit)", CRITICAL, MEMORY),
    61: Xid("internal micro-controller warning", WARNING, FIRMWARE),
    62: Xid("internal micro-controller halted", CRITICAL, FIRMWARE),
    63: Xid("a bad memory row was marked for remapping", WARNING, SOON),
    64: Xid("a bad memory row could not be remapped", CRITICAL, MEMORY),
    68: Xid("video decoder exception", INFO, PROGRAM, program=True),
    69: Xid("graphics engine class error", INFO, PROGRAM, program=True),
    74: Xid("NVLink error", CRITICAL, LINK),
    79: Xid("fell off the bus", CRITICAL, GONE),
    92: Xid("high rate of single-bit memory errors", WARNING, SOON),
    94: Xid("contained uncorrectable memory error: only the program was hit", WARNING, SOON),
    95: Xid("uncontained uncorrectable memory error", CRITICAL, MEMORY),
    109: Xid("context switch timed out", WARNING, RESET),
    110: Xid("security fault", CRITICAL, RESET),
    119: Xid("the GPU's system processor (GSP) does not answer", CRITICAL, FIRMWARE),
    120: Xid("error in the GPU's system processor (GSP)", CRITICAL, FIRMWARE),
    136: Xid("NVLink training failed", CRITICAL, LINK),
    140: Xid("unrecovered memory error", CRITICAL, MEMORY),
    143: Xid("GPU initialisation error", CRITICAL, RESET),
    144: Xid("NVLink error (SAW)", None, LINK),
    145: Xid("NVLink error (RLW)", None, LINK),
    146: Xid("NVLink error (TLW)", None, LINK),
    147: Xid("NVLink error (TREX)", None, LINK),
    148: Xid("NVLink error (NVLPW control)", None, LINK),
    149: Xid("NVLink error (NETIR)", None, LINK),
    150: Xid("NVLink error (MSE)", None, LINK),
    154: Xid("the driver now asks for a recovery action", WARNING, TOLD),
    155: Xid("NVLink error found by software", WARNING, LINK),
    156: Xid("a faulty part of the GPU was retired", WARNING, SOON),
    157: Xid("a faulty part of the GPU could not be retired", WARNING, RESET),
    158: Xid("fatal timeout in the GPU", CRITICAL, RESET),
}
"""What is not listed is reported as the driver graded it."""

OFF_BUS: Final = XIDS[79]


def known(code: int | None) -> Xid:
    """The entry of a code."""
    return XIDS.get(code or -1, Xid(f"Xid {code}", None, UNLISTED))
