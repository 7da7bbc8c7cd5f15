"""
train.py: one flat script that trains the translator (paper 1) or the bridge (paper 2).

    python train.py                      glyphs on a laptop: 4 minutes on two cores
    python train.py --quick              the same, smaller: under a minute
    python train.py --model bridge       super-resolution of glyphs: 6 minutes on two cores
    python train.py --dataset coco --data-dir ~/coco --download           the paper's setting, a GPU
    python train.py --dataset latents --image-latents A.npy --text-latents B.npy       your encoders
    torchrun --nproc_per_node=4 train.py ...       four processes share each batch: the same run

Order    arguments, pairs, frozen encoders, latents, two translators, the loop, gamma, first tables;
         for the bridge: arguments, pairs, the bridge, the loop in turns, first tables
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
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

import data
import encoders
import evaluate
import latent_bridge
from ddim_translator import Noise, Translator, best_gamma, draw_noise
from encoders import DIRECTIONS
from latent_bridge import DESIGNS, Bridge

# The paper's numbers (MT 4.3). Where it is silent (steps, width, EMA) Diffusion Autoencoders'.
TRANSLATOR = dict(
    dataset="glyphs", steps=100_000, batch=256, lr=1e-4, cosine=False, ema=0.9999, width=2048,
    layers=10, bare=0.05, lam1=1.0, lam2=2.0, recon_steps=1, p=0.05, predict="z_0",
    objective="joint", dropout=0.0, T=1000, gamma="auto", omega=5.0, K=16, ddim_steps=20,
)  # fmt: skip
# The embedded set: what fits four minutes on two cores; README, "Choices", has the measurements.
GLYPHS = dict(steps=2800, lr=4e-3, cosine=True, width=256, ema=0.998, omega=0.0, ddim_steps=2)
QUICK = dict(steps=250, ema=0.97, K=4)
# Paper 2 (LD): its release's sizes where the poster is silent, and what fits two cores.
BRIDGE = dict(
    dataset="glyph-sr", steps=200_000, batch=64, lr=1e-4, lr_modality=1e-4, cosine=False,
    ema=0.9999, width=256, layers=6, heads=8, tokens=64, dim=64, conv=256, design="mask",
    data_space=False, kernel="vp", procedure="iterative", ratio=1, loss="pred", w_pred=3.0,
    w_nce=0.05, tau=0.07, p_T=0.1,
)  # fmt: skip
GLYPH_BRIDGE = dict(
    steps=4000, lr=4e-3, lr_modality=5e-3, cosine=True, ema=0.995, width=96, layers=2, heads=2,
    tokens=16, dim=32, conv=96, ratio=2,
)  # fmt: skip
EMBEDDED = {
    ("bridge", "glyph-solids"): dict(steps=6000, batch=32, conv=128, poses=4, ratio=1),
    ("bridge", "glyph-names"): dict(steps=1000),
    ("bridge", "glyph-faces"): dict(steps=2000),  # 2,762 pairs
}
BRIDGE_QUICK = dict(steps=600, ema=0.98)
ENCODERS = {"glyphs": ("pca:128", "tfidf:256"), "latents": ("none", "none")}
AMP = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LOSSES = {
    "translator": "loss L_recon L_ddim".split(),
    "bridge": "L_bridge L_pred L_infoNCE".split(),
}
MAY_CHANGE = "out resume overwrite device data_dir cache_dir save_every download amp".split()
CLIP = ("clip:ViT-B-32-quickgelu", "clip:ViT-B-32-quickgelu")


class TrainError(Exception):
    """One line: what went wrong, where, what to do."""


def parse(argv=None):
    p = argparse.ArgumentParser(
        description="Train the translator (MT) or the bridge (LD). Flags are the papers' symbols.",
        epilog="Defaults are the papers'; the glyph sets have presets for two CPU cores. "
        "The resolved values are printed first.",
    )
    yes_no = argparse.BooleanOptionalAction
    # fmt: off
    a = p.add_argument
    a("--model", choices=("translator", "bridge"), default="translator", help="paper 1 or paper 2")
    a = p.add_argument_group("data").add_argument
    a("--dataset", help=f"{', '.join(data.NAMES)} (default glyphs); bridge also: glyph-names, "
      f"{', '.join(data.PAIRS)} (default glyph-sr)")
    a("--data-dir", help="folder of the data set; nothing is downloaded into it")
    a("--image-latents", help="latents: .npy or .npz, (N, h) image latents")
    a("--text-latents", help="latents: .npy or .npz, (N, h) text latents, row by row the partners")
    a("--groups", help="latents: .npy, (N,) ids; rows of one id are right answers to each other")
    a("--source-dir", help="pairs: folder of y; its files and those of x share their stems")
    a("--target-dir", help="pairs: folder of x")
    a("--size", type=int, help="celebahq, ffhq (128), edges2handbags, shapenet (64): image side")
    a("--poses", type=int, help="glyph-solids: poses of each letter in training (4)")
    a("--celeba-train", action="store_true", help="celeba: train on it; the paper only tests on it")
    a("--bare", type=float, help="glyphs: share of bare names asked in text->image (0.05)")
    a = p.add_argument_group("frozen encoders").add_argument
    a("--image-encoder", help=encoders.SPECS["image"])
    a("--text-encoder", help=encoders.SPECS["text"])
    a("--image-pooling", help=f"hf: models: {', '.join(encoders.POOLINGS['image'])}")
    a("--text-pooling", help=f"hf: models: {', '.join(encoders.POOLINGS['text'])}")
    a("--download", action="store_true", help="allow fetching encoder weights from huggingface.co")
    a("--cache-dir", default="cache", help="where latents are kept (default cache)")
    a = p.add_argument_group("run").add_argument
    a("--out", help="run folder (default runs/DATASET-MODEL)")
    a("--quick", action="store_true", help="a real but small run: under a minute and a half")
    a("--resume", action="store_true", help="go on with the run in --out")
    a("--overwrite", action="store_true", help="replace the run in --out")
    a("--seed", type=int, default=0)
    a("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    a("--amp", choices=tuple(AMP), help="mixed precision (CPU: off; GPU: bf16, else fp16)")
    a("--save-every", type=int, default=500, help="steps between checkpoints")
    a = p.add_argument_group("optimisation").add_argument
    a("--steps", type=int, help="steps per direction (MT 100000, LD 200000; glyph sets: fewer)")
    a("--batch", type=int, help="pairs a step, over all processes (MT 256; LD 64)")
    a("--lr", type=float, help="AdamW learning rate (1e-4; glyph sets: higher)")
    a("--cosine", action=yes_no, help="100 warm-up steps, then cosine to 0 (papers no; glyphs yes)")
    a("--weight-decay", type=float, default=1e-2, help="1e-2 in both papers")
    a("--clip", type=float, default=1.0, help="limit of the gradient's norm")
    a("--ema", type=float, help="decay of the averaged weights, those used (0.9999; glyphs 0.998)")
    a("--width", type=int, help="hidden width (MT 2048, LD 256; glyph sets 256, 96)")
    a("--layers", type=int, help="MT: MLP layers (10). LD: encoder and decoder blocks each (6)")
    a = p.add_argument_group("translator").add_argument
    a("--lam1", type=float, help="weight of L_recon, MT Eq. 8 (MT 1)")
    a("--lam2", type=float, help="weight of L_ddim, MT Eq. 2 (MT 2)")
    a("--recon-steps", type=int, help="DDIM steps inside L_recon (1); 0: one-step at t")
    a("--p", type=float, help="probability of dropping the condition (MT 0.05)")
    a("--predict", choices=("z_0", "eps", "v"), help="the network's output (z_0; MT eps)")
    a("--objective", choices=("joint", "residual"), help="joint: MT Eq. 9; residual: MT Lemma 1")
    a("--dropout", type=float, help="at the end of each layer (0; MT gives no rate)")
    a("--T", type=int, help="diffusion steps of the schedule (1000)")
    a("--gamma", help="weight of F, MT Eq. 5 (MT 1), or auto: best on validation (auto)")
    a("--omega", type=float, help="guidance, MT Eq. 4: 0 is none (MT 5; glyphs 0)")
    a("--K", type=int, help="samples averaged in F (16; --quick 4)")
    a("--ddim-steps", type=int, help="DDIM steps (20; glyphs 2)")
    a = p.add_argument_group("bridge").add_argument
    a("--procedure", choices=("iterative", "end-to-end", "two-step"), help="LD's three (iterative)")
    a("--ratio", type=int, help="iterative: turns of the bridge to one of the others (1; glyphs 2)")
    a("--loss", choices=("pred", "rec"), help="L_pred, or L_rec: plain autoencoders (pred)")
    a("--w-pred", type=float, help="weight of L_pred or L_rec (LD 1)")
    a("--w-nce", type=float, help="weight of L_infoNCE (LD 1)")
    a("--tau", type=float, help="its temperature (0.07; LD's paper 0.5)")
    a("--p-T", type=float, help="share of the rows at t = T, where nothing of z_0 leaks (0.1)")
    a("--lr-modality", type=float, help="learning rate of E_x, E_y, D_x")
    a("--design", choices=DESIGNS, help="the denoiser: a row of LD's ablation (mask)")
    a("--data-space", action=yes_no, help="no modality models: a bridge of pixels, DDBM")
    a("--kernel", choices=("vp", "ve"), help="the bridge's schedule (vp; LD's release ve)")
    a("--tokens", type=int, help="N, tokens of a latent (64; glyph sets 16)")
    a("--dim", type=int, help="D, numbers in a token (64; glyph sets 32)")
    a("--heads", type=int, help="attention heads (8; glyph sets 2)")
    a("--conv", type=int, help="channels of the modality modules (256; glyph sets 96)")
    # fmt: on
    return resolve(p.parse_args(argv))


def resolve(args):
    """Fill what was not given: the quick preset, then the data set's, then the paper's."""
    bridge = args.model == "bridge"
    paper, other = (BRIDGE, TRANSLATOR) if bridge else (TRANSLATOR, BRIDGE)
    wrong = [k for k in other if k not in paper and getattr(args, k) is not None]
    if wrong:
        raise TrainError(f"--{wrong[0].replace('_', '-')} is not a flag of --model {args.model}")
    args.dataset = args.dataset or paper["dataset"]
    preset = {**paper}
    if args.dataset.startswith("glyph"):
        preset |= GLYPH_BRIDGE if bridge else GLYPHS
    preset |= EMBEDDED.get((args.model, args.dataset), {})
    if args.quick:
        preset |= BRIDGE_QUICK if bridge else QUICK
    for name, value in preset.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.dataset not in data.PAIRS:
        image, text = ENCODERS.get(source_of(args), CLIP)
        args.image_encoder = args.image_encoder or image
        args.text_encoder = args.text_encoder or text
    args.out = args.out or f"runs/{args.dataset}-{args.model}{'-quick' if args.quick else ''}"
    check(args)
    return args


def check(args):
    """TrainError for values that no run can have."""
    if args.model == "translator" and args.dataset in (*data.PAIRS, "glyph-names"):
        raise TrainError(f"{args.dataset} has pairs of arrays: they are for --model bridge")
    if args.gamma not in ("auto", None):
        args.gamma = positive("--gamma", args.gamma)
    sizes = "steps batch width save_every ema lr K ddim_steps ratio tau lr_modality tokens dim"
    for name in [*sizes.split(), "heads", "conv", "size", "poses", "clip"]:
        if getattr(args, name) is not None:
            positive("--" + name.replace("_", "-"), getattr(args, name))
    for name in ("p", "bare", "p_T", "dropout", "ema"):
        below = 1 if name in ("dropout", "ema") else 1.0001
        if not 0 <= (getattr(args, name) or 0) < below:
            raise TrainError(f"--{name.replace('_', '-')} is a share between 0 and 1")
    if args.model == "translator":
        if args.layers < 2:
            raise TrainError(f"--layers {args.layers}: at least 2 are needed")
    elif args.width % args.heads or args.width % 8 or args.conv % 8 or args.layers < 1:
        raise TrainError("--width and --conv are multiples of 8, --width of --heads; --layers >= 1")
    elif args.w_pred < 0 or args.w_nce < 0 or (args.procedure == "two-step" and args.steps < 2):
        raise TrainError("--w-pred and --w-nce are not negative; two steps need --steps 2")


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
        self.direction, self.latents, self.args, self.device = direction, latents, args, device
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
        self.sums, self.counts = torch.zeros(4, device=device), torch.zeros(4)
        self.gamma = None

    def step(self, step, mine, world):
        batch = draw_batch(self.latents, self.direction, step, self.args, mine)
        train_step(self, batch, step, self.args, self.device, world)

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
    return args.lr * decay_at(step, args)


def decay_at(step, args):
    """Factor of the learning rate: 100 steps of warm-up, then half a cosine; or 1.

    Each of the bridge's two steps is a training of its own."""
    if not args.cosine:
        return 1.0
    steps = args.steps
    if args.procedure == "two-step":
        first = args.steps // 2
        step, steps = (step, first) if step < first else (step - first, args.steps - first)
    return min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))


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
    side.counts += 1


# ---------------------------------------------------------------------------------------------
# The bridge: the same for paper 2


class LatentPairs(NamedTuple):
    """The latents of images and captions as pairs of arrays, in one direction."""

    latents: encoders.Latents
    direction: str

    @property
    def x(self):
        return self.latents.full

    def of(self, rows):
        return [a.numpy() for a in self.latents.of(self.direction, self.latents.full[rows])]


def bridge_pairs(args, split, E_image=None, E_text=None):
    """{direction: pairs}; latents go both ways, other pairs from y to x."""
    if args.dataset in data.PAIRS:
        return {"y->x": data.load_pairs(args.dataset, args.data_dir, split, **data_options(args))}
    s = data.load(source_of(args), args.data_dir, split, **data_options(args))
    latents = encoders.encode_split(s, E_image, E_text, args.cache_dir)
    return {d: LatentPairs(latents, d) for d in DIRECTIONS}


def make_bridge(args, y_shape, x_shape):
    """The Bridge that the arguments describe, untrained."""
    return Bridge(
        y_shape, x_shape, args.tokens, args.dim, args.width, args.heads, args.layers,
        args.conv, args.kernel, args.design, args.tau, args.loss == "rec", args.data_space,
    )  # fmt: skip


class BridgeSide:
    """A bridge in training: its average, an optimiser for it and one for its modality models."""

    def __init__(self, direction, pairs, args, device):
        self.direction, self.pairs, self.args, self.device = direction, pairs, args, device
        items = pairs.of(np.linspace(0, len(pairs.x) - 1, min(len(pairs.x), 2000)).astype(int))
        self.shapes = [list(a.shape[1:]) for a in items]
        self.net = make_bridge(args, *self.shapes)
        self.net.fit(*items)
        self.net.to(device)
        self.ema = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(args.ema))
        halves = {"bridge": [], "modality": []}
        for name, p in self.net.named_parameters():
            halves["bridge" if name.startswith("net.") else "modality"].append(p)
        adamw = lambda ps: torch.optim.AdamW(
            ps, args.lr, weight_decay=args.weight_decay, fused=True
        )
        self.optimizers = {k: adamw(ps) for k, ps in halves.items() if ps}
        self.scaler = torch.amp.GradScaler(device.type, enabled=args.amp == "fp16")
        self.sums, self.counts = torch.zeros(4, device=device), torch.zeros(4)

    def state(self):
        parts = {k: getattr(self, k).state_dict() for k in ("net", "ema", "scaler")}
        optimizers = {k: o.state_dict() for k, o in self.optimizers.items()}
        return {**parts, "optimizers": optimizers, "shapes": self.shapes}

    def load(self, state):
        for k in ("net", "ema", "scaler"):
            getattr(self, k).load_state_dict(state[k])
        for k, o in self.optimizers.items():
            o.load_state_dict(state["optimizers"][k])

    def step(self, step, mine, world):
        bridge_step(self, bridge_batch(self, step, mine), step, world)


def bridge_batch(side, step, mine=slice(None)):
    """(y, x, Noise) of one step, on the CPU: a function of seed, step and direction."""
    args, net = side.args, side.net
    seed = (args.seed * 2 + (side.direction == "image->text")) * 1_000_000_007 + step
    g = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(side.pairs.x), (args.batch,), generator=g).numpy()
    noise = latent_bridge.draw_noise(args.batch, net.N, net.D, net.kernel.T, args.p_T, g)
    y, x = (torch.from_numpy(a) for a in side.pairs.of(rows[mine]))
    return y, x, latent_bridge.Noise(*(n[mine] for n in noise))


def turn_of(step, args):
    """Whose turn it is: "bridge", "modality", "both" or, for the first of two steps, "apart"."""
    if args.data_space:
        return "bridge"  # there are no modality models
    if args.procedure == "end-to-end":
        return "both"
    if args.procedure == "two-step":
        return "apart" if step < args.steps // 2 else "bridge"
    return "bridge" if step % (args.ratio + 1) else "modality"


def bridge_step(side, batch, step, world=1):
    """Forward, backward, update of the side whose turn it is; adds to side.sums."""
    args, net, device, turn = side.args, side.net, side.device, turn_of(step, side.args)
    y, x, noise = batch
    y, x, noise = y.to(device), x.to(device), type(noise)(*(n.to(device) for n in noise))
    with torch.autocast(device.type, AMP[args.amp], enabled=args.amp != "off"):
        gather = gather_all if world > 1 else lambda z: z
        loss, *parts = net.loss(y, x, noise, turn, args.w_pred, args.w_nce, gather)
    moving = ["bridge"] * (turn in ("bridge", "both")) + ["modality"] * (turn != "bridge")
    net.zero_grad(set_to_none=True)  # of both sides: what is left over would be averaged too
    side.scaler.scale(loss).backward()
    if world > 1:
        average_gradients([p for p in net.parameters() if p.grad is not None], world)
    for name in moving:
        optimizer = side.optimizers[name]
        rate = args.lr if name == "bridge" else args.lr_modality
        for group in optimizer.param_groups:
            group["lr"] = rate * decay_at(step, args)
        side.scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], args.clip)
        side.scaler.step(optimizer)
    side.scaler.update()
    side.ema.update_parameters(net)
    side.sums += torch.stack([*parts, norm]).detach().float()
    modality = "modality" in moving
    pred = modality or not (net.rec or net.data_space)  # L_pred is the bridge's loss too
    side.counts += torch.tensor(["bridge" in moving, pred, modality, True])


def gather_all(z):
    """The latents of all processes, with gradients: InfoNCE's negatives are the global batch's."""
    return torch.cat(dist.nn.all_gather(z))


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


def start_log(path, step, names):
    """A fresh log.csv; on resume the old one up to the checkpoint: the rest comes again."""
    rows, header = [], ",".join(["step,direction", *names, "grad_norm,lr,steps_per_s"])
    if step:
        with open(path) as f:
            rows = [r for r in f.read().splitlines()[1:] if int(r.split(",")[0]) <= step]
    with open(path, "w") as f:
        f.write("\n".join([header, *rows]) + "\n")


def write_log(path, done, count, sides, lr, seconds):
    """One row a direction: means over the `count` steps since the last row. Stops on NaN or Inf."""
    with open(path, "a") as f:
        for side in sides:
            means = (side.sums.cpu() / side.counts.clamp(min=1)).tolist()
            side.sums.zero_(), side.counts.zero_()
            if not all(math.isfinite(x) for x in means[:3]):
                worst = next(x for x in means if not math.isfinite(x))
                raise TrainError(
                    f"step {done}: the loss of {side.direction} is {worst}. The checkpoint is "
                    "of an earlier, good step. Try a smaller --lr, --amp off or bf16, a smaller "
                    "--clip; look for outliers in the latents"
                )
            cells = [f"{x:.6g}" for x in (*means, lr, count / seconds)]
            f.write(",".join([str(done), side.direction, *cells]) + "\n")


def draw_losses(log, path, names):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with open(log) as f:
        rows = list(csv.DictReader(f))
    labels = {
        "L_ddim": "L_ddim, mean square (MT Eq. 2)",
        "L_recon": "L_recon, mean |z - z_hat| (MT Eq. 8)",
        "L_bridge": "L_bridge, weighted by 1 / c_out^2",
        "L_pred": "L_pred (or L_rec), mean square",
        "L_infoNCE": "L_infoNCE, nats",
    }
    names = [n for n in names if n in labels]
    fig, axes = plt.subplots(1, len(names), figsize=(4.5 * len(names), 3.2), layout="constrained")
    for ax, name in zip(axes, names, strict=True):
        for direction in dict.fromkeys(r["direction"] for r in rows):
            mine = [r for r in rows if r["direction"] == direction]
            ax.plot([int(r["step"]) for r in mine], [float(r[name]) for r in mine], label=direction)
        ax.set(xlabel="step", ylabel=labels[name], ylim=(0, None))
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


def load_encoders(args, device, sets):
    """The two frozen encoders, fitted on the training set if they have to be."""
    how = {"device": device, "download": args.download}
    pooling = args.image_pooling, args.text_pooling
    E_image = encoders.make(args.image_encoder, "image", sets[0].images, pooling=pooling[0], **how)
    E_text = encoders.make(args.text_encoder, "text", sets[0].captions, pooling=pooling[1], **how)
    return E_image, E_text


def load_latents(args, device, rank, world):
    """The frozen encoders and the latents of the training and validation pairs."""
    name, options = source_of(args), data_options(args)
    sets = [data.load(name, args.data_dir, s, **options) for s in ("train", "val")]
    E_image, E_text = load_encoders(args, device, sets)
    if world > 1 and rank > 0:
        dist.barrier()  # process 0 fills the cache, the others then find it
    latents = [encoders.encode_split(s, E_image, E_text, args.cache_dir) for s in sets]
    if world > 1 and rank == 0:
        dist.barrier()
    return E_image, E_text, *latents


def source_of(args):
    """The set of images and captions whose latents are asked for; glyph-names are glyphs'."""
    return "glyphs" if args.dataset == "glyph-names" else args.dataset


def data_options(args):
    """The flags that only one data set knows."""
    flags = {
        "latents": ("image_latents", "text_latents", "groups"),
        "pairs": ("source_dir", "target_dir"),
        "glyph-solids": ("poses",),
        **dict.fromkeys(("celebahq", "ffhq", "edges2handbags", "shapenet"), ("size",)),
    }.get(args.dataset, ())
    if args.dataset == "celeba":
        return {"allow_train": args.celeba_train}
    return {k: getattr(args, k) for k in flags if getattr(args, k) is not None}


def translators(args, device, rank, world):
    """(sides, encoders, what to do after the loop) for paper 1."""
    E_image, E_text, latents, validation = load_latents(args, device, rank, world)
    torch.manual_seed(args.seed)  # every process starts from the same weights
    sides = [Side(d, latents, args, device) for d in DIRECTIONS]

    def finish():
        for side in sides:
            side.gamma = args.gamma
            if args.gamma == "auto":
                side.gamma = measure_gamma(side, validation, args, device)

    return sides, {"image": E_image, "text": E_text}, finish


def bridges(args, device, rank, world):
    """The same for paper 2: one side, from y to x, or two between latents."""
    found = {}
    if args.dataset in data.PAIRS:
        pairs = bridge_pairs(args, "train")
    else:
        found["image"], found["text"], latents, _ = load_latents(args, device, rank, world)
        pairs = {d: LatentPairs(latents, d) for d in DIRECTIONS}
    torch.manual_seed(args.seed)
    return [BridgeSide(d, p, args, device) for d, p in pairs.items()], found, lambda: None


def run(args):
    """Train what the arguments say, into args.out; with --resume, a finished run stays as it is.

    -> the device, in the one process that goes on to evaluate; None in the others."""
    rank, world, device = start_processes(args.device)
    args.amp = choose_amp(args.amp, device)
    path, log = os.path.join(args.out, "model.pt"), os.path.join(args.out, "log.csv")
    if args.batch % (8 * world):  # the translator: every eighth row of every slice is at t = T
        raise TrainError(f"--batch {args.batch} is not a multiple of 8 x {world} process(es)")
    if os.path.exists(path) and not (args.resume or args.overwrite):
        raise TrainError(
            f"{path} exists: --resume goes on, --overwrite replaces it, --out names another"
        )
    old = load(path) if args.resume else None
    if old:
        check_resumable(path, old, args)
        if old.get("finished"):
            return device if rank == 0 else None
    say = print if rank == 0 else lambda *a: None
    given = {k: v for k, v in vars(args).items() if v is not None and v is not False}
    say(" ".join(f"--{k.replace('_', '-')} {v}" for k, v in given.items()))
    start = time.time()
    set_up = bridges if args.model == "bridge" else translators
    sides, found, finish = set_up(args, device, rank, world)
    size = lambda ps: f"{sum(p.numel() for p in ps) / 1e6:.2f} M"
    say(
        f"{len(sides)} direction(s), {size(sides[0].net.parameters())} parameters each, of them "
        f"{size(sides[0].net.net.parameters())} in the diffusion network; {device} x {world}; "
        f"{time.time() - start:.0f} s"
    )

    names = LOSSES[args.model]
    checkpoint = lambda step, finished=False: {
        "step": step,
        "finished": finished,
        "args": vars(args),
        "encoders": {k: E.state() for k, E in found.items()},
        "sides": {side.direction: side.state() for side in sides},
    }
    first = 0
    if old:
        first = old["step"]
        for side in sides:
            side.load(old["sides"][side.direction])
        say(f"resumed {path} at step {first}")
    if rank == 0:
        os.makedirs(args.out, exist_ok=True)
        start_log(log, first, names)

    mine = slice(rank * args.batch // world, (rank + 1) * args.batch // world)
    since, clock = first, time.time()
    bar = tqdm(
        range(first, args.steps), "train", args.steps, initial=first, disable=rank > 0 or None
    )
    for step in bar:
        torch.manual_seed(args.seed * 1_000_003 + step * world + rank)  # for dropout alone
        for side in sides:
            side.step(step, mine, world)
        done = step + 1
        keep = done % args.save_every == 0 or done == args.steps
        if rank == 0 and (keep or done % 50 == 0):
            write_log(log, done, done - since, sides, lr_at(step, args), time.time() - clock)
            since, clock = done, time.time()
        if rank == 0 and keep:
            save(path, checkpoint(done))
    if world > 1:
        dist.destroy_process_group()
    if rank == 0:
        finish()
        save(path, checkpoint(args.steps, finished=True))
        draw_losses(log, os.path.join(args.out, "loss.png"), names)
        say(f"trained in {time.time() - start:.0f} s: {path}, {log}")
    return device if rank == 0 else None


def main(argv=None):
    args = parse(argv)
    device = run(args)
    if device is not None:
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
