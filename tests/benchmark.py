"""
benchmark.py: where the time goes. Not a test: numbers for a machine, about three minutes.

    python tests/benchmark.py                   all four tables on the CPU
    python tests/benchmark.py --device cuda     the first three on a GPU
    python tests/benchmark.py --only 4          one of them

1  a training step: steps/s, the share of time outside forward, backward and optimiser, and the
   achieved FLOP/s beside torch.matmul on the same shapes, timed in turn with it
2  a sampled vector: milliseconds against the number of DDIM steps, with and without guidance
3  10^4, 10^5 and 10^6 cached pairs: time a pair and memory, which should not grow
4  training of both directions beside another program that keeps one core busy: side by side, as
   train.py trains, it should be at most 2.5 times slower than alone; one direction after the
   other, each operation on all cores, waits for the core that the other program has
"""

import argparse
import contextlib
import functools
import os
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np
import torch

import devices
import runs
import train
from ddim_translator import Translator
from latents import DIRECTIONS, Latents

H1, H2, BATCH = 512, 512, 256  # CLIP ViT-B/32


def synthetic(n, folder):
    """n pairs of random latents as the cache keeps them: float32 memory maps."""
    maps, rng = [], np.random.default_rng(0)
    for name in ("image", "text"):
        path = os.path.join(folder, f"{name}.npy")
        out = np.lib.format.open_memmap(path, "w+", np.float32, (n, H1))
        for start in range(0, n, 10_000):
            out[start : start + 10_000] = rng.standard_normal((min(10_000, n - start), H1))
        out.flush()
        maps.append(np.load(path, mmap_mode="r"))
    pairs = np.stack([np.arange(n)] * 2, 1)
    return Latents(*maps, pairs, np.arange(n), np.zeros(0, int))


def arguments(width, device):
    line = f"--dataset latents --width {width} --batch {BATCH} --device {device}"
    args = train.parse(line.split())
    args.amp = devices.choose_amp(args.amp, torch.device(device))
    train.fit_to_data(args, train.FLAGS, 20_000, torch.device(device))
    return args


def learner(direction, latents, args, device):
    """One direction as train.py makes it; random pairs may be their own validation pairs."""
    return train.Learner(direction, latents, latents, args, device)


def clock(f, device, repeat):
    """Seconds of one call, the median of `repeat`."""
    times = []
    for _ in range(repeat + 2):
        start = time.perf_counter()
        f()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return float(np.median(times[2:]))


def products(net, device):
    """FLOP of a training step's matrix products, and a function that does just those products."""
    shapes = [m.weight.shape for m in net.net.modules() if isinstance(m, torch.nn.Linear)]
    data = [
        [torch.randn(*s, device=device) for s in ((BATCH, i), (o, i), (BATCH, o))]
        for o, i in shapes
    ]

    def run():
        for x, w, g in data:
            x @ w.T, g @ w, g.T @ x  # forward, gradient of the input, gradient of the weight

    return sum(6 * BATCH * o * i for o, i in shapes), run


def step_table(device, repeat):
    print(f"\n1. a training step; latents {H1} -> {H2}, batch {BATCH}, 10 layers")
    print(f"{'width':>8}{'steps/s':>10}{'outside':>10}{'GFLOP/s':>10}{'matmul':>10}{'share':>8}")
    for width in (256, 512, 1024, 2048):
        args = arguments(width, device)
        with tempfile.TemporaryDirectory() as folder:
            latents = synthetic(20_000, folder)
            side = learner("text->image", latents, args, device)
            batch = runs.draw_batch(latents, "text->image", 0, args)
            draw = lambda: runs.draw_batch(latents, "text->image", 1, args)
            step = lambda: train.train_step(side, batch, 0, args, device)
            flop, matmuls = products(side.net, device)
            n = max(3, repeat * 256 // width)
            rounds = [
                [clock(f, device, n // 3 + 1) for f in (draw, step, matmuls)] for _ in range(3)
            ]
        t_draw, t_step, t_matmul = np.median(rounds, 0)
        cells = f"{1 / (t_draw + t_step):>10.2f}{t_draw / (t_draw + t_step):>10.1%}"
        cells += f"{flop / t_step / 1e9:>10.0f}{flop / t_matmul / 1e9:>10.0f}"
        print(f"{width:>8}{cells}{t_matmul / t_step:>8.0%}", flush=True)


def sampling_table(device, width=1024):
    print(f"\n2. milliseconds a sampled vector, width {width}, batch {BATCH}")
    print(f"{'DDIM steps':>12}{'omega 0':>10}{'omega 5':>10}")
    net = Translator(H1, H2, width).eval().to(device)
    c = torch.randn(BATCH, H1, device=device)
    for steps in (1, 5, 20):
        ms = [
            clock(lambda s=steps, w=omega: net.sample(c, steps=s, omega=w), device, 3) / BATCH * 1e3
            for omega in (0.0, 5.0)
        ]
        print(f"{steps:>12}{ms[0]:>10.3f}{ms[1]:>10.3f}", flush=True)


def scale_row(n, device):
    """One process per size, so that its peak memory is its own."""
    args = arguments(256, device)
    with tempfile.TemporaryDirectory() as folder:
        latents = synthetic(n, folder)
        start = time.perf_counter()
        side = learner("text->image", latents, args, device)
        fit = time.perf_counter() - start
        start = time.perf_counter()
        for step in range(30):
            batch = runs.draw_batch(latents, "text->image", step, args)
            train.train_step(side, batch, step, args, device)
        train_ms = (time.perf_counter() - start) / 30 / BATCH * 1e3
        with open("/proc/self/status") as f:  # Linux
            kib = {line.split(":")[0]: line.split()[1] for line in f if line.startswith("Rss")}
        own, mapped = (int(kib[k]) / 2**20 for k in ("RssAnon", "RssFile"))
        print(f"{n:>10}{fit / n * 1e6:>12.2f}{train_ms:>12.3f}{own:>12.2f}{mapped:>12.2f}")


@contextlib.contextmanager
def busy():
    """Another program at work, which takes one core for as long as it runs."""
    # It ends with this process, even if this one is killed.
    code = f"import os\nwhile os.getppid() == {os.getpid()}: pass"
    other = subprocess.Popen([sys.executable, "-c", code])
    try:
        time.sleep(1.0)  # until it has started
        yield
    finally:
        other.kill()
        other.wait()


def in_turn(function, items):
    """One item after the other, each with all threads: the other way to train two directions."""
    return [function(item) for item in items]


def rounds_per_second(each, learners, args, device, steps):
    """Steps/s of both directions together, the median of three rounds."""
    go = functools.partial(
        train.train_round, steps=range(steps), args=args, device=device, rank=0, world=1
    )
    each(go, learners)  # the first one is slow
    speeds = []
    for _ in range(3):
        start = time.perf_counter()
        each(go, learners)
        speeds.append(steps / (time.perf_counter() - start))
    return float(np.median(speeds))


def beside_table(device, repeat, width=256):
    print(f"\n4. steps/s of both directions, width {width}, beside a program that has one core")
    print(f"{'':24}{'alone':>10}{'beside':>10}{'slower':>10}")
    args = arguments(width, device)
    with tempfile.TemporaryDirectory() as folder:
        latents = synthetic(20_000, folder)
        learners = [learner(direction, latents, args, device) for direction in DIRECTIONS]
        for name, each in (("side by side", devices.side_by_side), ("in turn", in_turn)):
            alone = rounds_per_second(each, learners, args, device, 5 * repeat)
            with busy():
                beside = rounds_per_second(each, learners, args, device, 5 * repeat)
            print(f"{name:24}{alone:>10.2f}{beside:>10.2f}{alone / beside:>9.1f}x", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[1])
    p.add_argument("--device", default="cpu")
    p.add_argument("--repeat", type=int, default=12)
    p.add_argument("--only", type=int, nargs="+", default=[1, 2, 3, 4], help="these tables alone")
    p.add_argument("--scale-row", type=int, help=argparse.SUPPRESS)
    a = p.parse_args()
    device = torch.device(a.device)
    if a.scale_row:
        return scale_row(a.scale_row, device)
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads")
    if 1 in a.only:
        step_table(device, a.repeat)
    if 2 in a.only:
        sampling_table(device)
    if 4 in a.only and device.type == "cpu":
        beside_table(device, a.repeat)
    if 3 not in a.only:
        return
    print("\n3. cached pairs (width 256): microseconds a pair to fit, milliseconds a trained pair,")
    print("   GiB of the process's own memory, and of the file pages that the system lends it")
    print(f"{'pairs':>10}{'fit us':>12}{'train ms':>12}{'own GiB':>12}{'lent GiB':>12}", flush=True)
    for n in (10**4, 10**5, 10**6):
        subprocess.run([sys.executable, __file__, "--scale-row", str(n), "--device", a.device])


if __name__ == "__main__":
    main()
