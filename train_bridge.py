"""
train_bridge.py: trains LD's bridge from a source y to a target x, two arrays of any shapes.

    python train_bridge.py                          8 x 8 pixels to 32 x 32: 8 minutes on two cores
    python train_bridge.py --quick                  the same, smaller: two minutes
    python train_bridge.py --dataset glyph-solids   four silhouettes to voxels
    python train_bridge.py --dataset glyph-rooms    six cameras to the voxels around them
    python train_bridge.py --dataset pairs --source-dir A --target-dir B          your own files

What is different from train.py: nothing is frozen. The encoders E_x, E_y and the decoder D_x
learn together with the denoiser, and the two sides pull at each other: the denoiser wants latents
that are easy to predict, the decoder wants latents that tell everything. LD lets them take turns,
each against the other held still: `--procedure iterative`. Ours, on the glyphs, all learn at every
step, and the denoiser is given z_0 like data: in the same time that is better (RESULTS.md). In the
order of this file:

    FLAGS           every number of the method, with its default
    BridgeLearner   the bridge, its moving average, an optimiser for each side
    turn_of         whose turn it is
    train_step      forward, backward, update of the side whose turn it is
    train           data -> learners -> THE LOOP
"""

import os

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import evaluate_bridge
import overfit
from arguments import BRIDGE_SETS, Flag, known, resolve, shared_parser
from bridge_networks import DESIGNS
from checkpoints import RunFolder
from data_pairs import PAIRS
from devices import AMP, average_gradients, choose_amp, gather_all, start_processes
from errors import RunError, run_script
from latent_bridge import BridgeNoise, draw_bridge_noise
from latents import DIRECTIONS
from pictures import draw_losses
from runs import (
    LatentPairs,
    bridge_pairs,
    check_items,
    load_latents,
    make_bridge,
    step_seed,
    warmup_cosine,
)

LOSSES = ("L_bridge", "L_pred", "L_infoNCE")

# The columns are those of train.py. "full" is LD's, of its released code where its poster is
# silent, or ours where the text names LD's.
# fmt: off
FLAGS = [
    #    name                    full glyphs quick limits        what it is
    Flag("steps",            200_000,  2000,  400, (1, 1e9),     "training steps",
         sets={"glyph-solids": 4000, "glyph-rooms": 700, "glyph-names": 700,
               "glyph-faces": 1400, "glyph-sounds": 1400, "glyph-sights": 2000}),
    Flag("batch",                 64,  None, None, (1, 1e6),     "pairs a step, over all processes",
         sets={"glyph-solids": 16, "glyph-rooms": 32}),
    Flag("lr",                  1e-4,  4e-3, None, (1e-8, 10),   "learning rate of the denoiser"),
    Flag("lr_modality",         1e-4,  5e-3, None, (1e-8, 10),   "the same of E_x, E_y, D_x"),
    Flag("cosine",             False,  True, None, None,         "warm-up, then a cosine to 0"),
    Flag("weight_decay",        1e-2,  None, None, (0, 10),      "AdamW's weight decay"),
    Flag("clip",                 1.0,  None, None, (1e-6, 1e9),  "limit of the gradient's norm"),
    Flag("ema",               0.9999, 0.995, 0.98, (0, 0.99999), "decay of the averaged weights"),
    Flag("procedure",    "iterative", "end-to-end", None, None,  "how the two sides are trained",
         choices=("iterative", "end-to-end", "two-step")),
    Flag("ratio",                  1,  None, None, (1, 1000),    "bridge turns to one other"),
    Flag("loss",              "pred",  None, None, None,         "L_pred, or L_rec",
         choices=("pred", "rec")),
    Flag("w_pred",               3.0,  None, None, (0, 1e6),     "weight of L_pred, L_rec; LD 1"),
    Flag("w_nce",               0.05,  None, None, (0, 1e6),     "weight of L_infoNCE; LD 1"),
    Flag("balance",              0.5,  None, None, (0, 1),       "weight of occupied voxels",
         sets={"glyph-solids": 0.25}),
    Flag("tau",                 0.07,  None, None, (1e-3, 1e3),  "its temperature; LD 0.5"),
    Flag("p_T",                  0.1,  None, None, (0, 1),       "share of rows at t = T"),
    Flag("design",            "mask",  None, None, None,         "the denoiser, of LD.s ablation",
         choices=DESIGNS),
    Flag("data_space",         False,  None, None, None,         "a bridge of pixels, DDBM"),
    Flag("kernel",              "vp",  None, None, None,         "the schedule; LD: ve",
         choices=("vp", "ve")),
    Flag("tokens",                64,    16, None, (1, 4096),    "N, tokens of a latent",
         sets={"glyph-rooms": 64}),
    Flag("dim",                   64,    32, None, (2, 4096),    "D, numbers in a token",
         sets={"glyph-solids": 64}),
    Flag("width",                256,    96, None, (8, 16384),   "hidden width of the denoiser"),
    Flag("layers",                 6,     2, None, (1, 200),     "blocks a side"),
    Flag("heads",                  8,     2, None, (1, 256),     "its attention heads"),
    Flag("conv",                 256,    96, None, (8, 8192),    "channels of the modality models",
         sets={"glyph-solids": 64}),
    Flag("poses",                  4,  None, None, (1, 1000),    "training poses a letter"),
    Flag("keep_every",             0,  None, None, (0, 1e9),     "keep RUN/step-N every N steps"),
]
# fmt: on


def parse(argv=None):
    """The arguments of a run, every default filled in. RunError for values that cannot be."""
    parser = shared_parser("Train LD's latent bridge.", BRIDGE_SETS, FLAGS)
    args = parser.parse_args(argv)
    known(args.dataset, BRIDGE_SETS)
    resolve(args, FLAGS, "bridge")
    # GroupNorm has eight groups, and each attention head takes an equal part of the width.
    if args.width % args.heads or args.width % 8 or args.conv % 8:
        raise RunError("--width and --conv are multiples of 8, --width of --heads")
    if args.procedure == "two-step" and args.steps < 2:
        raise RunError("--procedure two-step needs at least --steps 2")
    return args


# --------------------------------------------------------------------------------------------------
# One direction, and one step of it


class BridgeLearner:
    """A bridge in training: its moving average, and an optimiser for each of its two sides.

    "bridge" is the denoiser; "modality" is E_x, E_y, D_x (and D_y, if there is one)."""

    def __init__(self, direction, pairs, args, device):
        self.direction, self.pairs, self.args, self.device = direction, pairs, args, device
        # Up to 2,000 items, evenly spread, show the shapes, and the scale of what is no picture.
        some = np.linspace(0, len(pairs.x) - 1, min(len(pairs.x), 2000)).astype(int)
        y, x = pairs.of(some)
        check_items("sources", y)
        check_items("targets", x)
        self.shapes = [list(y.shape[1:]), list(x.shape[1:])]
        self.net = make_bridge(args, *self.shapes)
        self.net.fit(y, x, args.balance)
        self.net.to(device)
        self.ema = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(args.ema))

        # Two optimisers, so that the side whose turn it is not keeps its momentum untouched.
        sides = {"bridge": [], "modality": []}
        for name, parameter in self.net.named_parameters():
            side = "bridge" if name.startswith("net.") else "modality"
            sides[side].append(parameter)
        self.optimizers = {}
        for side, parameters in sides.items():
            if parameters:  # in data space there are no modality models
                self.optimizers[side] = torch.optim.AdamW(
                    parameters, args.lr, weight_decay=args.weight_decay, fused=True
                )
        self.scaler = torch.amp.GradScaler(device.type, enabled=args.amp == "fp16")

        # Sums of three losses and of the gradient's norm since the last row of the log. A loss is
        # not computed in every turn: so each has its own count.
        self.sums = torch.zeros(4, device=device)
        self.counts = torch.zeros(4)

    def state(self):
        """What a checkpoint keeps: all that the next step depends on."""
        parts = {k: getattr(self, k).state_dict() for k in ("net", "ema", "scaler")}
        optimizers = {side: o.state_dict() for side, o in self.optimizers.items()}
        return {**parts, "optimizers": optimizers, "shapes": self.shapes}

    def load(self, state):
        for k in ("net", "ema"):
            getattr(self, k).load_state_dict(state[k])
        if state["scaler"]:  # empty in a run that was not in fp16 until now
            self.scaler.load_state_dict(state["scaler"])
        for side, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][side])


def draw_batch(learner, step, mine=slice(None)):
    """(y, x, BridgeNoise) of one step, on the CPU: a function of seed, step and direction."""
    args, net = learner.args, learner.net
    generator = torch.Generator().manual_seed(step_seed(args.seed, learner.direction, step))
    rows = torch.randint(len(learner.pairs.x), (args.batch,), generator=generator).numpy()
    noise = draw_bridge_noise(args.batch, net.N, net.D, net.kernel.T, args.p_T, generator)
    y, x = learner.pairs.of(rows[mine])
    noise = BridgeNoise(*(part[mine] for part in noise))
    return torch.from_numpy(y), torch.from_numpy(x), noise


def turn_of(step, args):
    """Whose turn it is at a step, of the four that Bridge.loss knows.

    "bridge"    the denoiser learns, E_x, E_y, D_x are frozen
    "modality"  E_x, E_y, D_x learn, through the frozen denoiser
    "both"      everything at once
    "apart"     E_x, E_y, D_x learn without the denoiser: the first of two steps"""
    if args.data_space:
        return "bridge"  # there are no modality models
    if args.procedure == "end-to-end":
        return "both"
    if args.procedure == "two-step":
        return "apart" if step < args.steps // 2 else "bridge"
    # ratio 2: modality, bridge, bridge, modality, bridge, bridge, ...
    return "bridge" if step % (args.ratio + 1) else "modality"


def decay_at(step, args):
    """Factor of the learning rates; each half of "two-step" is a training of its own."""
    if not args.cosine:
        return 1.0
    if args.procedure != "two-step":
        return warmup_cosine(step, args.steps)
    first = args.steps // 2
    if step < first:
        return warmup_cosine(step, first)
    return warmup_cosine(step - first, args.steps - first)


def train_step(learner, batch, step, world=1):
    """One update of the side whose turn it is. train.py explains mixed precision, line by line."""
    args, net, device = learner.args, learner.net, learner.device
    turn = turn_of(step, args)
    y, x, noise = batch
    y, x = y.to(device), x.to(device)
    noise = BridgeNoise(*(part.to(device) for part in noise))

    # The loss freezes the side whose turn it is not (Bridge.loss says what each turn lowers).
    # With several processes, InfoNCE compares with the pairs of all of them.
    gather = gather_all if world > 1 else None
    with torch.autocast(device.type, AMP[args.amp], enabled=args.amp != "off"):
        loss, *parts = net.loss(y, x, noise, turn, args.w_pred, args.w_nce, gather)

    # Gradients of both sides are cleared: average_gradients below would send old ones, too.
    net.zero_grad(set_to_none=True)
    learner.scaler.scale(loss).backward()
    if world > 1:
        average_gradients([p for p in net.parameters() if p.grad is not None], world)

    # In turn "both" two sides move, each with its own limit of the norm; what is logged is the norm
    # of the whole gradient: by Pythagoras, as the two sides share no weight.
    bridge_moves = turn in ("bridge", "both")
    modality_moves = turn != "bridge"
    norms = []
    if bridge_moves:
        norms.append(update(learner, "bridge", args.lr * decay_at(step, args)))
    if modality_moves:
        norms.append(update(learner, "modality", args.lr_modality * decay_at(step, args)))
    norm = norms[0] if len(norms) == 1 else torch.hypot(*norms)
    learner.scaler.update()
    learner.ema.update_parameters(net)

    # L_pred is in the bridge's loss too, unless there is no D_x or it is trained by L_rec.
    has_pred = modality_moves or not (net.rec or net.data_space)
    learner.sums += torch.stack([*parts, norm]).detach().float()
    learner.counts += torch.tensor([bridge_moves, has_pred, modality_moves, True])


def update(learner, side, rate):
    """One step of a side's optimiser: unscale, clip, step. -> the gradient's norm."""
    optimizer = learner.optimizers[side]
    for group in optimizer.param_groups:
        group["lr"] = rate
    learner.scaler.unscale_(optimizer)
    parameters = optimizer.param_groups[0]["params"]
    norm = torch.nn.utils.clip_grad_norm_(parameters, learner.args.clip)
    learner.scaler.step(optimizer)
    return norm


# --------------------------------------------------------------------------------------------------
# The run


def load_pairs(args, device, rank, world, old=None):
    """({direction: training Pairs}, {modality: encoder}, {split: key}).

    From y to x; latents of images and captions go both ways, through frozen encoders."""
    if args.dataset in PAIRS:
        pairs = bridge_pairs(args, "train")
        return pairs, {}, {"train": pairs["y->x"].key}
    found = load_latents(args, device, rank, world, old)
    pairs = {direction: LatentPairs(found.train, direction) for direction in DIRECTIONS}
    return pairs, found.encoders, found.keys


def train(args):
    """Train what the arguments say, into args.out; with --resume, a finished run stays as it is.

    -> the device, in the one process that goes on to evaluate; None in the others."""
    rank, world, device = start_processes(args.device)
    args.amp = choose_amp(args.amp, device)
    if args.batch % world:
        raise RunError(f"--batch {args.batch} is not a multiple of {world} processes")
    if args.overfit:
        overfit.one_process(world)
        return overfit.bridge(args, device, BridgeLearner, train_step, LOSSES)
    with RunFolder(args, "bridge", LOSSES, rank) as folder:
        if not folder.finished:
            train_in(folder, args, device, rank, world)
    return device if rank == 0 else None


def train_in(folder, args, device, rank, world):
    """Data, learners, THE LOOP."""
    folder.say_settings()
    pairs, found, keys = load_pairs(args, device, rank, world, folder.old)
    folder.check_data(keys)
    torch.manual_seed(args.seed)  # every process starts from the same weights
    learners = [BridgeLearner(d, p, args, device) for d, p in pairs.items()]
    folder.say(size_of(learners, device, world))
    folder.start(learners, found)

    # THE LOOP. A step draws its batch by its number, so a resumed run sees the same batches.
    mine = slice(rank * args.batch // world, (rank + 1) * args.batch // world)
    for step in folder.steps():
        torch.manual_seed(args.seed * 1_000_003 + step * world + rank)  # for dropout alone
        for learner in learners:
            train_step(learner, draw_batch(learner, step, mine), step, world)
        folder.record(step + 1, args.lr * decay_at(step, args))

    if world > 1:
        torch.distributed.destroy_process_group()
    if rank == 0:
        draw_losses(folder.log, os.path.join(args.out, "loss.png"), LOSSES)
        folder.finish()


def size_of(learners, device, world):
    """ "1 direction(s) of 1.32 M parameters, ...", to be printed."""
    net = learners[0].net
    count = sum(p.numel() for p in net.parameters()) / 1e6
    inner = sum(p.numel() for p in net.net.parameters()) / 1e6
    told = f"{len(learners)} direction(s) of {count:.2f} M parameters, {inner:.2f} M of them in"
    return f"{told} the denoiser; {device} x {world}"


def main(argv=None):
    args = parse(argv)
    device = train(args)
    if device is not None:
        evaluate_bridge.main([args.out, "--first-look", "--device", str(device)])


GOES_ON = "stopped; the same command with --resume goes on from the last checkpoint"

if __name__ == "__main__":
    run_script("train_bridge.py", main, GOES_ON)
