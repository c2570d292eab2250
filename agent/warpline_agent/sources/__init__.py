"""Every source by name: SOURCES are read live, FORMATS and TREE_FORMATS from files. One line each."""

from __future__ import annotations

from ..source import Format, Source, TreeFormat
from .bytedance import OperationTimeline, OperationTrace, RunMeta
from .flight_recorder import FlightRecorder
from .greyhound import Greyhound
from .guard import GuardJournal
from .hook import Hook
from .host import Host
from .infiniband import Infiniband, InfinibandTree
from .infiniband_snapshot import InfinibandSnapshot
from .ingero import Ingero
from .inspector import Inspector
from .kernel_log import KernelLog, KernelLogFile
from .kernels import TrainingKernels
from .kineto import Kineto, KinetoFolder
from .nccl_log import NcclLog, NcclLogSource
from .nccl_topology import NcclTopology
from .nsys import Nsys
from .nsys_csv import NsysGpuTrace
from .nvidia_smi import NvidiaSmi, NvidiaSmiCapture, ZeusMonitor
from .nvidia_smi_xml import NvidiaSmiXml
from .nvml import Nvml
from .perfquery import Perfquery
from .profiler import Profiler
from .progress import Progress
from .prometheus import Prometheus
from .ras import Ras
from .rocm_smi import RocmSmi
from .stacks import Stacks
from .superbench_monitor import SuperbenchMonitor
from .synthetic import Synthetic
from .tracelens_nccl import TracelensNccl

SOURCES: dict[str, type[Source]] = {
    "nvml": Nvml,
    "hook": Hook,
    "kernels": TrainingKernels,
    "stacks": Stacks,
    "progress": Progress,
    "profiler": Profiler,
    "host": Host,
    "infiniband": Infiniband,
    "kernel_log": KernelLog,
    "kineto": KinetoFolder,
    "nccl_log": NcclLogSource,
    "guard": GuardJournal,
    "synthetic": Synthetic,
}

FORMATS: tuple[Format, ...] = (
    Kineto(),
    FlightRecorder(),
    NvidiaSmi(),
    ZeusMonitor(),
    NvidiaSmiCapture(),
    NvidiaSmiXml(),
    RocmSmi(),
    SuperbenchMonitor(),
    InfinibandSnapshot(),
    Perfquery(),
    TracelensNccl(),
    Greyhound(),
    Ras(),
    Inspector(),
    Prometheus(),
    OperationTrace(),
    OperationTimeline(),
    RunMeta(),
    Ingero(),
    Nsys(),
    NsysGpuTrace(),
    NcclTopology(),
    KernelLogFile(),
    NcclLog(),
)
"""Recorded formats, most specific first: the first that recognises a file reads it."""

TREE_FORMATS: tuple[TreeFormat, ...] = (InfinibandTree(),)
