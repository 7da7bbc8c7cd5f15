"""
train.py: one flat script that trains both directions of the translator.

    python train.py                      glyphs on a laptop: 4 minutes on two cores
    python train.py --quick              the same, smaller: under a minute
    python train.py --dataset coco --data-dir ~/coco --download           the paper's setting, a GPU
    python train.py --dataset latents --image-latents A.npy --text-latents B.npy       your encoders
    torchrun --nproc_per_node=4 train.py ...       four processes share each batch: the same run

Order    arguments, pairs, frozen encoders, latents, two translators, the loop, gamma, first tables
Leaves   RUN/model.pt (the checkpoint), log.csv, loss.png, and what evaluate.py writes
Random   each step draws from generators seeded by (seed, step): a killed run resumes bit for bit,
         and any number of processes sees the same batches
"""

import argparse
import csv
import math
import os
import sys
import time

import numpy as np
import torch
import torch.distributed as dist
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

import data
import encoders
import evaluate
from ddim_translator import Noise, Translator, best_gamma, draw_noise
from encoders import DIRECTIONS

# The paper's numbers (MT 4.3). Where it is silent (steps, width, EMA) Diffusion Autoencoders'.
PAPER = dict(
    steps=100_000, lr=1e-4, cosine=False, width=2048, ema=0.9999, omega=5.0, ddim_steps=20, K=16
)
# The embedded set: what fits four minutes on two cores; README, "Choices", has the measurements.
GLYPHS = dict(steps=2800, lr=4e-3, cosine=True, width=256, ema=0.998, omega=0.0, ddim_steps=2)
QUICK = dict(steps=250, ema=0.97, K=4)
ENCODERS = {"glyphs": ("pca:128", "tfidf:256"), "latents": ("none", "none")}
AMP = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LOG = "step,direction,loss,L_recon,L_ddim,grad_norm,lr,steps_per_s"
MAY_CHANGE = "out resume overwrite device data_dir cache_dir save_every download amp".split()
CLIP = ("clip:ViT-B-32-quickgelu", "clip:ViT-B-32-quickgelu")


class TrainError(Exception):
    """One line: what went wrong, where, what to do."""


def parse(argv=None):
    p = argparse.ArgumentParser(
        description="Train the translator in both directions. Flags carry the paper's symbols.",
        epilog="Defaults are the paper's (MT); glyphs has a preset for two CPU cores. "
        "The resolved values are printed first.",
    )
    yes_no = argparse.BooleanOptionalAction
    # fmt: off
    a = p.add_argument_group("data").add_argument
    a("--dataset", default="glyphs", help=f"{', '.join(data.NAMES)} (default glyphs)")
    a("--data-dir", help="folder of the data set; nothing is downloaded into it")
    a("--image-latents", help="latents: .npy or .npz, (N, h) image latents")
    a("--text-latents", help="latents: .npy or .npz, (N, h) text latents, row by row the partners")
    a("--groups", help="latents: .npy, (N,) ids; rows of one id are right answers to each other")
    a("--celeba-train", action="store_true", help="celeba: train on it; the paper only tests on it")
    a("--bare", type=float, default=0.05, help="glyphs: share of bare names asked in text->image")
    a = p.add_argument_group("frozen encoders").add_argument
    a("--image-encoder", help=encoders.SPECS["image"])
    a("--text-encoder", help=encoders.SPECS["text"])
    a("--image-pooling", help=f"hf: models: {', '.join(encoders.POOLINGS['image'])}")
    a("--text-pooling", help=f"hf: models: {', '.join(encoders.POOLINGS['text'])}")
    a("--download", action="store_true", help="allow fetching encoder weights from huggingface.co")
    a("--cache-dir", default="cache", help="where latents are kept (default cache)")
    a = p.add_argument_group("run").add_argument
    a("--out", help="run folder (default runs/DATASET-translator)")
    a("--quick", action="store_true", help="a real but small run: 250 steps")
    a("--resume", action="store_true", help="go on with the run in --out")
    a("--overwrite", action="store_true", help="replace the run in --out")
    a("--seed", type=int, default=0)
    a("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    a("--amp", choices=tuple(AMP), help="mixed precision (CPU: off; GPU: bf16, else fp16)")
    a("--save-every", type=int, default=500, help="steps between checkpoints")
    a = p.add_argument_group("optimisation").add_argument
    a("--steps", type=int, help="steps per direction (100000; glyphs 2800)")
    a("--batch", type=int, default=256, help="pairs a step, over all processes (MT 256)")
    a("--lr", type=float, help="AdamW learning rate (MT 1e-4; glyphs 4e-3)")
    a("--cosine", action=yes_no, help="100 warm-up steps, then cosine to 0 (MT no; glyphs yes)")
    a("--weight-decay", type=float, default=1e-2, help="MT 1e-2")
    a("--clip", type=float, default=1.0, help="limit of the gradient's norm")
    a("--ema", type=float, help="decay of the averaged weights, those used (0.9999; glyphs 0.998)")
    a("--lam1", type=float, default=1.0, help="weight of L_recon, MT Eq. 8 (MT 1)")
    a("--lam2", type=float, default=2.0, help="weight of L_ddim, MT Eq. 2 (MT 2)")
    a("--recon-steps", type=int, default=1, help="DDIM steps inside L_recon; 0: one-step at t")
    a("--p", type=float, default=0.05, help="probability of dropping the condition (MT 0.05)")
    a = p.add_argument_group("model").add_argument
    a("--predict", choices=("z_0", "eps", "v"), default="z_0", help="the network's output (MT eps)")
    a("--objective", choices=("joint", "residual"), default="joint", help="MT Eq. 9; MT Lemma 1")
    a("--width", type=int, help="hidden width (2048; glyphs 256)")
    a("--layers", type=int, default=10, help="MLP layers (MT 10)")
    a("--dropout", type=float, default=0.0, help="at the end of each layer (MT gives no rate)")
    a("--T", type=int, default=1000, help="diffusion steps of the schedule")
    a = p.add_argument_group("sampling").add_argument
    a("--gamma", default="auto", help="weight of F, MT Eq. 5 (MT 1), or auto: best on validation")
    a("--omega", type=float, help="guidance, MT Eq. 4: 0 is none (MT 5; glyphs 0)")
    a("--K", type=int, help="samples averaged in F (16; --quick 4)")
    a("--ddim-steps", type=int, help="DDIM steps (20; glyphs 2)")
    # fmt: on
    return resolve(p.parse_args(argv))


def resolve(args):
    """Fill what was not given: the quick preset, then the data set's, then the paper's."""
    embedded = args.dataset.startswith("glyphs")
    preset = {**PAPER, **(GLYPHS if embedded else {}), **(QUICK if args.quick else {})}
    for name, value in preset.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    image, text = ENCODERS.get(args.dataset, CLIP)
    args.image_encoder, args.text_encoder = args.image_encoder or image, args.text_encoder or text
    args.out = args.out or f"runs/{args.dataset}-translator{'-quick' if args.quick else ''}"
    if args.gamma != "auto":
        args.gamma = positive("--gamma", args.gamma)
    for name in ("steps", "batch", "width", "K", "ddim_steps", "save_every", "ema", "lr"):
        positive("--" + name.replace("_", "-"), getattr(args, name))
    if (
        args.layers < 2
        or not 0 <= args.p <= 1
        or not 0 <= args.bare <= 1
        or not 0 <= args.dropout < 1
    ):
        raise TrainError("--layers is at least 2; --p, --bare and --dropout are probabilities")
    return args


def positive(flag, value):
    try:
        if 0 < float(value) < math.inf:
            return float(value)
    except ValueError:
        pass
    raise TrainError(
        f"{flag} {value}: a positive number is needed{' (or auto)' if flag == '--gamma' else ''}"
    )


# ---------------------------------------------------------------------------------------------
# Processes and precision


def start_processes(device):
    """-> (rank, world, device). Under torchrun they form a group: nccl on GPUs, gloo on CPUs."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if world > 1 and device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    device = evaluate.usable(device)
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return rank, world, device


def choose_amp(amp, device):
    """The --amp default: off on a CPU; on a GPU bf16 where the hardware has it, else fp16."""
    if amp is not None or device.type != "cuda":
        return amp or "off"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def average_gradients(parameters, world):
    """Data parallelism written out: each process has the gradient of its slice; take the mean."""
    grads = [p.grad for p in parameters]
    flat = torch.cat([g.flatten() for g in grads])  # one message instead of one per tensor
    dist.all_reduce(flat)
    for g, part in zip(grads, (flat / world).split([g.numel() for g in grads]), strict=True):
        g.copy_(part.view_as(g))


# ---------------------------------------------------------------------------------------------
# One direction, one batch, one step


class Side:
    """One direction in training: the translator, its moving average, optimiser and loss scaler."""

    def __init__(self, direction, latents, args, device):
        self.direction = direction
        h1, h2 = latents.dims(direction)
        shape = args.width, args.layers, args.dropout, args.T
        self.net = Translator(h1, h2, *shape, args.predict, args.objective)
        self.net.fit(latents.chunks(direction))
        self.net.to(device)
        self.ema = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(args.ema))
        self.trained = [p for p in self.net.parameters() if p.requires_grad]
        decay = args.weight_decay
        self.optimizer = torch.optim.AdamW(self.trained, args.lr, weight_decay=decay, fused=True)
        self.scaler = torch.amp.GradScaler(device.type, enabled=args.amp == "fp16")
        self.sums, self.gamma = torch.zeros(4, device=device), None

    def state(self):
        parts = {k: getattr(self, k).state_dict() for k in ("net", "ema", "optimizer", "scaler")}
        return {**parts, "gamma": self.gamma}

    def load(self, state):
        for k in ("net", "ema", "optimizer", "scaler"):
            getattr(self, k).load_state_dict(state[k])


def draw_rows(full, bare, B, share, generator):
    """Row numbers of `pairs`, (B,): uniform over full captions, with a `share` of bare names."""
    rows = full[torch.randint(len(full), (B,), generator=generator).numpy()]
    if share == 0 or len(bare) == 0:
        return rows
    other = bare[torch.randint(len(bare), (B,), generator=generator).numpy()]
    return np.where(torch.rand(B, generator=generator).numpy() < share, other, rows)


def draw_batch(latents, direction, step, args, mine=slice(None)):
    """(c, z, Noise) of one step, on the CPU: a function of seed, step, direction; cut to `mine`."""
    seed = (args.seed * 2 + DIRECTIONS.index(direction)) * 1_000_000_007 + step
    g = torch.Generator().manual_seed(seed)
    # a bare name is a fair question and a poor answer: it is never the target of image->text
    share = args.bare if direction == "text->image" else 0.0
    rows = draw_rows(latents.full, latents.bare, args.batch, share, g)
    noise = draw_noise(args.batch, latents.dims(direction)[1], args.T, args.p, g)
    return *latents.of(direction, rows[mine]), Noise(*(x[mine] for x in noise))


def lr_at(step, args):
    if not args.cosine:
        return args.lr
    return args.lr * min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / args.steps))


def train_step(side, batch, step, args, device, world=1):
    """Forward, backward, update. Adds the losses and the gradient's norm to side.sums."""
    c, z, noise = batch
    c, z, noise = c.to(device), z.to(device), Noise(*(x.to(device) for x in noise))
    gamma = 1.0 if args.gamma == "auto" else args.gamma  # the paper's, until it can be measured
    for group in side.optimizer.param_groups:
        group["lr"] = lr_at(step, args)
    with torch.autocast(device.type, AMP[args.amp], enabled=args.amp != "off"):
        losses = side.net.loss(c, z, noise, gamma, args.lam1, args.lam2, args.recon_steps)
    side.optimizer.zero_grad(set_to_none=True)
    side.scaler.scale(losses[0]).backward()  # fp16: scaled up, lest small gradients become 0
    if world > 1:
        average_gradients(side.trained, world)
    side.scaler.unscale_(side.optimizer)
    norm = torch.nn.utils.clip_grad_norm_(side.trained, args.clip)
    side.scaler.step(side.optimizer)  # skipped when fp16 overflowed
    side.scaler.update()
    side.ema.update_parameters(side.net)
    side.sums += torch.stack([*losses, norm]).detach().float()


# ---------------------------------------------------------------------------------------------
# Checkpoints and log


def save(path, checkpoint):
    """Write beside, then rename: a kill leaves the old checkpoint or the new one, no half."""
    torch.save(checkpoint, path + ".tmp")
    os.replace(path + ".tmp", path)


def load(path):
    """A checkpoint as tensors, dicts, numbers and strings; pickled objects are refused."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise TrainError(f"{path}: no such checkpoint; python train.py makes one") from None
    except Exception as e:
        raise TrainError(f"{path}: broken, or not made by train.py ({type(e).__name__})") from None


def check_resumable(path, checkpoint, args):
    old, new = checkpoint["args"], vars(args)
    changed = [k for k in new if k not in MAY_CHANGE and old.get(k) != new[k]]
    if changed:
        what = ", ".join(f"--{k.replace('_', '-')} was {old.get(k)}, now {new[k]}" for k in changed)
        raise TrainError(f"{path} has other settings ({what}): give the same, or another --out")


def start_log(path, step):
    """A fresh log.csv; on resume the old one up to the checkpoint: the rest comes again."""
    rows = []
    if step:
        with open(path) as f:
            rows = [r for r in f.read().splitlines()[1:] if int(r.split(",")[0]) <= step]
    with open(path, "w") as f:
        f.write("\n".join([LOG, *rows]) + "\n")


def write_log(path, done, count, sides, lr, seconds):
    """One row a direction: means over the `count` steps since the last row. Stops on NaN or Inf."""
    with open(path, "a") as f:
        for side in sides:
            means = (side.sums / count).tolist()
            side.sums.zero_()
            if not all(math.isfinite(x) for x in means[:3]):
                raise TrainError(
                    f"step {done}: the loss of {side.direction} is {means[0]}. The checkpoint is "
                    "of an earlier, good step. Try a smaller --lr, --amp off or bf16, a smaller "
                    "--clip; look for outliers in the latents"
                )
            cells = [f"{x:.6g}" for x in (*means, lr, count / seconds)]
            f.write(",".join([str(done), side.direction, *cells]) + "\n")


def draw_losses(log, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with open(log) as f:
        rows = list(csv.DictReader(f))
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    labels = ("L_ddim, mean square (MT Eq. 2)", "L_recon, mean |z - z_hat| (MT Eq. 8)")
    for ax, name, label in zip(axes, ("L_ddim", "L_recon"), labels, strict=True):
        for direction in DIRECTIONS:
            mine = [r for r in rows if r["direction"] == direction]
            ax.plot([int(r["step"]) for r in mine], [float(r[name]) for r in mine], label=direction)
        ax.set(xlabel="step", ylabel=label, ylim=(0, None))
        ax.legend(frameon=False)
    fig.savefig(path, dpi=120)
    plt.close(fig)


def measure_gamma(side, latents, args, device, limit=5000):
    """gamma of MT Eq. 5 on at most `limit` validation pairs, in the translator's scaled units."""
    c, z = latents.of(side.direction, latents.full[:: -(-len(latents.full) // limit)])
    how = {"steps": args.ddim_steps, "omega": args.omega, "K": args.K}
    how["randn"] = evaluate.on_cpu(args.seed)
    cM, F = side.ema.module.parts(c.to(device), **how)
    return best_gamma(cM, F, z.to(device))


# ---------------------------------------------------------------------------------------------


def load_latents(args, device, rank, world):
    """The frozen encoders and the latents of the training and validation pairs."""
    sets = [
        data.load(args.dataset, args.data_dir, s, **data_options(args)) for s in ("train", "val")
    ]
    how = {"device": device, "download": args.download}
    pooling = args.image_pooling, args.text_pooling
    E_image = encoders.make(args.image_encoder, "image", sets[0].images, pooling=pooling[0], **how)
    E_text = encoders.make(args.text_encoder, "text", sets[0].captions, pooling=pooling[1], **how)
    if world > 1 and rank > 0:
        dist.barrier()  # process 0 fills the cache, the others then find it
    latents = [encoders.encode_split(s, E_image, E_text, args.cache_dir) for s in sets]
    if world > 1 and rank == 0:
        dist.barrier()
    return E_image, E_text, *latents


def data_options(args):
    """The flags that only one data set knows."""
    if args.dataset == "latents":
        return {k: getattr(args, k) for k in ("image_latents", "text_latents", "groups")}
    return {"allow_train": args.celeba_train} if args.dataset == "celeba" else {}


def main(argv=None):
    args = parse(argv)
    rank, world, device = start_processes(args.device)
    args.amp = choose_amp(args.amp, device)
    path, log = os.path.join(args.out, "model.pt"), os.path.join(args.out, "log.csv")
    if args.batch % (8 * world):  # every eighth row is at t = T, in every process's slice
        raise TrainError(f"--batch {args.batch} is not a multiple of 8 x {world} process(es)")
    if os.path.exists(path) and not (args.resume or args.overwrite):
        raise TrainError(
            f"{path} exists: --resume goes on, --overwrite replaces it, --out names another"
        )
    say = print if rank == 0 else lambda *a: None
    say(
        " ".join(
            f"--{k.replace('_', '-')} {v}"
            for k, v in vars(args).items()
            if v is not None and v is not False
        )
    )
    start = time.time()
    E_image, E_text, latents, validation = load_latents(args, device, rank, world)
    torch.manual_seed(args.seed)  # every process starts from the same weights
    sides = [Side(d, latents, args, device) for d in DIRECTIONS]
    parameters = sum(p.numel() for p in sides[0].net.parameters())
    say(
        f"{len(latents.full)} pairs, image latents {E_image.dim}, text latents {E_text.dim}; "
        f"{parameters / 1e6:.1f} M parameters a direction; {device} x {world}; "
        f"{time.time() - start:.0f} s"
    )

    checkpoint = lambda step: {
        "step": step,
        "args": vars(args),
        "encoders": {"image": E_image.state(), "text": E_text.state()},
        "sides": {side.direction: side.state() for side in sides},
    }
    first = 0
    if args.resume:
        old = load(path)
        check_resumable(path, old, args)
        first = old["step"]
        for side in sides:
            side.load(old["sides"][side.direction])
        say(f"resumed {path} at step {first}")
    if rank == 0:
        os.makedirs(args.out, exist_ok=True)
        start_log(log, first)

    mine = slice(rank * args.batch // world, (rank + 1) * args.batch // world)
    since, clock = first, time.time()
    bar = tqdm(
        range(first, args.steps), "train", args.steps, initial=first, disable=rank > 0 or None
    )
    for step in bar:
        torch.manual_seed(args.seed * 1_000_003 + step * world + rank)  # for dropout alone
        for side in sides:
            batch = draw_batch(latents, side.direction, step, args, mine)
            train_step(side, batch, step, args, device, world)
        done = step + 1
        keep = done % args.save_every == 0 or done == args.steps
        if rank == 0 and (keep or done % 50 == 0):
            write_log(log, done, done - since, sides, lr_at(step, args), time.time() - clock)
            since, clock = done, time.time()
        if rank == 0 and keep:
            save(path, checkpoint(done))
    if world > 1:
        dist.destroy_process_group()
    if rank > 0:
        return

    for side in sides:
        side.gamma = args.gamma
        if args.gamma == "auto":
            side.gamma = measure_gamma(side, validation, args, device)
    save(path, checkpoint(args.steps))
    draw_losses(log, os.path.join(args.out, "loss.png"))
    say(f"trained in {time.time() - start:.0f} s: {path}, {log}")
    evaluate.main([args.out, "--first-look", "--device", str(device)])


if __name__ == "__main__":
    try:
        main()
    except (TrainError, data.DataError, encoders.EncoderError, ValueError, OSError) as e:
        sys.exit(f"train.py: {e}")
    except KeyboardInterrupt:
        sys.exit(
            "train.py: stopped; the same command with --resume goes on from the last checkpoint"
        )
