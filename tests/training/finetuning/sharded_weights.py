"""Saves, changes and restores weights that FSDP spreads over two processes; this is one of them.

python sharded_weights.py FOLDER RANK
"""

import copy
import os
import sys

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from training.ema import Ema
from training.finetuning.checkpoint import (
    TENSORS,
    averaged_state,
    restore,
    trainable_state,
    training_state,
)

folder, rank = sys.argv[1], int(sys.argv[2])
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
optimizer, ema = torch.optim.AdamW(model.parameters(), lr=1e-2), Ema(model, 0.5)


def step():
    optimizer.zero_grad()
    model(torch.ones(2, 4)).pow(2).mean().backward()
    optimizer.step()
    ema.update(model)


step()
state = copy.deepcopy(training_state(model, optimizer, ema, None))
step()
wanted = copy.deepcopy((trainable_state(model), averaged_state(model, ema)))
if rank > 0:
    state = {name: value for name, value in state.items() if name not in TENSORS}
restore(state, model, optimizer, ema, None)
step()
found = trainable_state(model), averaged_state(model, ema)
for want, got in zip(wanted, found, strict=True):
    assert {name: tensor.shape for name, tensor in got.items()} == (shapes if rank == 0 else {})
    assert all(torch.equal(want[name], got[name]) for name in want)
# Whoever ends first must not take the connection from the other; and now and then torch aborts
# where it ends the threads of gloo in order, when all is done.
torch.distributed.barrier()
os._exit(0)
