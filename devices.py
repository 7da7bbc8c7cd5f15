"""
devices.py: on which device, in how many processes, and in which precision a script computes.

A student on a laptop needs none of this: one process, the CPU, 32-bit floats. On GPUs there are
two ways to go faster, and both are written out here and in the training scripts:

Mixed precision   The forward pass runs in 16 bits, which a GPU multiplies many times faster. The
                  weights stay in 32 bits, since a step changes them by less than 16 bits can tell.
                  bf16 has the range of float32 and 2 to 3 decimal digits. fp16 has 3 to 4,
                  but numbers below 6e-8 become 0: then the loss has to be scaled (`train_step`).
Data parallelism  `torchrun --nproc_per_node=4 train.py ...` starts four processes. Each has the
                  same weights and works on a quarter of every batch. After the backward pass they
                  exchange gradients and take the mean, so that all make the same step.

Letters  rank: the number of this process, 0, 1, ...; process 0 alone prints and writes files
         world: how many processes there are
"""

import os
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.distributed as dist
import torch.distributed.nn

from errors import DeviceError

CPU = torch.device("cpu")
AMP = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def usable(device):
    """torch.device of "cpu", "cuda", "cuda:1", ...; "auto" is a GPU where there is one.

    Raises DeviceError if torch cannot put a tensor there."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    # The name alone says little: only the first tensor shows whether the driver works.
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise DeviceError(f"--device {device}: {reason}") from None
    return torch.device(device)


def start_processes(device):
    """-> (rank, world, device). Under torchrun the processes form a group, else rank 0 of 1."""
    # torchrun tells each process its place by environment variables.
    rank = int(os.environ.get("RANK", 0))
    world = int(os.environ.get("WORLD_SIZE", 1))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if world > 1 and device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"  # one GPU a process
    device = usable(device)
    # nccl exchanges tensors between GPUs, gloo between CPUs.
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return rank, world, device


def cpu_multiplies_bf16():
    """Whether the CPU has units for products of bf16 matrices (AMX: Intel Xeons since 2023).

    There a training step takes 0.57 of its time at width 256, and 0.45 at 1024 and 2048. A CPU
    without them takes bf16 too, but turns it into float32 first, and is slower for it."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


def choose_amp(amp, device):
    """The default of --amp: bf16 where the hardware multiplies it; else off, on a GPU fp16."""
    if amp is not None:
        return amp
    if device.type != "cuda":
        return "bf16" if cpu_multiplies_bf16() else "off"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def cores():
    """How many cores of the CPU this process may use."""
    # A container or `taskset` may allow fewer than the machine has.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def side_by_side(function, items, device=CPU, random=False):
    """[function(item) for item in items], all at once on the CPU: one thread for each item.

    torch would rather take all cores for each operation of one item after the other. But an
    operation on a batch of 256 takes half a millisecond, and at its end every core waits for the
    slowest. If another program has one of two cores, each operation waits for its share of it:
    training was 13 to 20 times slower then. Items that need nothing of each other need not wait.
    Where there is one core, they come one after the other. The results are the same.

    device   where `function` computes: a GPU works on one thing at a time anyway
    random   whether it draws from torch's one generator, as dropout does: then the numbers of one
             item would depend on how far the other one is"""
    before = torch.get_num_threads()
    # Several processes wait for each other at every step: in each, the order has to be the same.
    alone = device.type != "cpu" or random or dist.is_initialized()
    if alone or cores() < 2 or len(items) < 2:
        return [function(item) for item in items]
    torch.set_num_threads(min(before, max(1, cores() // len(items))))  # of each item's operations
    try:
        with ThreadPoolExecutor(len(items)) as pool:
            return list(pool.map(function, items))
    finally:
        torch.set_num_threads(before)


def average_gradients(parameters, world):
    """Replace each gradient by its mean over all processes.

    Each process has the gradient of the mean loss over its slice of the batch. The slices are of
    one size, so the mean of these gradients is the gradient of the whole batch's loss."""
    gradients = [p.grad for p in parameters]
    # One long message is sent faster than a hundred short ones.
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)  # now the sum over processes, the same in each
    mean = flat / world
    # Back into the shapes of the parameters.
    sizes = [g.numel() for g in gradients]
    for gradient, part in zip(gradients, mean.split(sizes), strict=True):
        gradient.copy_(part.view_as(gradient))


def gather_all(z):
    """z (B, ...) of every process, one after the other, with gradients back to each.

    InfoNCE compares a pair with all others of the batch, so it needs the batch of all processes."""
    return torch.cat(dist.nn.all_gather(z))
