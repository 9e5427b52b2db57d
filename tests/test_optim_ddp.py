"""molsam.optim under DistributedDataParallel."""

from __future__ import annotations

import os

import pytest
import torch
from optim_problem import Net, adamw, batch, bits, train
from torch import nn
from torch.multiprocessing.spawn import spawn

from molsam.optim import GraphSAM

STEPS, RANKS = 8, 2


def run_rank(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS
    )
    net = Net()
    model = nn.parallel.DistributedDataParallel(net, find_unused_parameters=True)
    optimizer = GraphSAM(adamw(net), rho=0.1, reuse_interval=3)

    def closure(t, factor):
        optimizer.zero_grad()
        x, y = (part[rank::RANKS] for part in batch(t))
        loss = factor * (model(x) - y).square().mean()
        loss.backward()
        return loss

    for t in range(STEPS):
        optimizer.step(lambda t=t: closure(t, 1.0))
    optimizer.step(lambda: closure(0, float("nan") if rank == 1 else 1.0))
    weights = [p.detach() for p in net.parameters()]
    torch.save((bits(net), weights, optimizer.t, optimizer.skipped), f"{folder}/{rank}.pt")
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads may abort a process that tears them down while its peer does


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_ranks_take_the_same_steps(tmp_path):
    """Also the same as one process on the whole batch, and a rank's NaN skips the step on all."""
    spawn(run_rank, (tmp_path,), nprocs=RANKS)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(RANKS))
    assert first[0] == second[0]
    assert first[2:] == second[2:] == (STEPS, 1)
    net = Net()
    train(net, GraphSAM(adamw(net), rho=0.1, reuse_interval=3), range(STEPS))
    torch.testing.assert_close(first[1], [p.detach() for p in net.parameters()])
