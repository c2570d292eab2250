"""The NCCL operations of one process of `nccl_real.py`: known in number and order, some of them in groups. Runs in the worker."""

from __future__ import annotations

from typing import Any

ELEMENTS = 1 << 20


def operations(torch: Any, told: dict[str, Any]) -> dict[str, Any]:
    """Joins a job of `ranks` processes and runs `rounds` times each operation; names in order of enqueueing."""
    rank, ranks = told["rank"], told["ranks"]
    distributed = torch.distributed
    torch.cuda.set_device(rank)
    device = torch.device("cuda", rank)
    distributed.init_process_group("nccl", init_method=f"file://{told['meet']}", rank=rank, world_size=ranks)
    part = torch.ones(ELEMENTS, device=device)
    whole = torch.ones(ELEMENTS * ranks, device=device)
    names: list[str] = []
    for _ in range(told["rounds"]):
        distributed.all_reduce(part)
        distributed.all_gather_into_tensor(whole, part)
        distributed.reduce_scatter_tensor(part, whole)
        distributed.broadcast(part, 0)
        names += ["AllReduce", "AllGather", "ReduceScatter", "Broadcast"]
        if ranks > 1:
            peer = (rank + 1) % ranks
            pair = [
                distributed.P2POp(distributed.isend, part, peer),
                distributed.P2POp(distributed.irecv, part.clone(), (rank - 1) % ranks),
            ]
            for work in distributed.batch_isend_irecv(pair):
                work.wait()
            names += ["Send", "Recv"]
    torch.cuda.synchronize()
    distributed.destroy_process_group()
    return {"names": names}
