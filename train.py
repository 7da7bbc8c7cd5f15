"""
train.py: trains the translator of MT, one direction text->image and one image->text.

    python train.py                      glyphs on a laptop: 4 minutes on two cores
    python train.py --quick              the same, smaller: under a minute
    python train.py --overfit            does it learn one batch by heart? If not, look for a bug
    python train.py --dataset coco --data-dir ~/coco --download           the paper's setting, a GPU
    python train.py --dataset latents --image-latents A.npy --text-latents B.npy       your encoders
    torchrun --nproc_per_node=4 train.py ...       four processes share each batch: the same run

What happens, in the order of this file:

    FLAGS         every number of the method, with its default
    Learner       one direction: the network, its moving average (EMA), optimiser, loss scaler
    train_step    forward, backward, update: the mixed-precision step, line by line
    train         data -> frozen encoders -> latents -> two learners -> THE LOOP -> best weights
    main          the same, then a first look at the result

The encoders are frozen, so every image and caption is encoded once, before the loop, and the loop
sees only vectors. It leaves RUN/model.pt, log.csv and loss.png, and what evaluate.py writes.
"""

import functools
import os

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import evaluate
import overfit
from arguments import (
    ENDLESS,
    TRANSLATOR_SETS,
    Flag,
    by_size,
    fit_to_data,
    known,
    number,
    resolve,
    shared_parser,
    within,
)
from as_released import switches_of
from checkpoints import RunFolder
from closed_form import best_gamma, best_ridge, cosine_of, moments
from ddim_translator import ROWS_AT_T, Noise
from devices import AMP, average_gradients, choose_amp, side_by_side, start_processes
from errors import RunError, run_script
from latents import DIRECTIONS
from pictures import draw_losses
from runs import (
    check_trainable,
    cpu_randn,
    draw_batch,
    ema_decay,
    learning_rate,
    load_latents,
    load_splits,
    make_translator,
)

LOSSES = ("loss", "L_recon", "L_ddim")

# Three defaults for each number. "full": at full size, the paper's number, or ours where the text
# names the paper's; where MT gives none (steps, width, EMA) it is Diffusion Autoencoders'.
# "glyphs": what did best on validation pairs among runs of four minutes on two cores (RESULTS.md,
# "Choices"). "--quick": for a first try. None: as the column to its left.
# fmt: off
FLAGS = [
    #    name                full glyphs quick limits        what it is
    Flag("steps",        100_000,  2800,  250, (1, 1e9),     "training steps of each direction"),
    Flag("batch",            256,  None, None, (8, 1e6),     "pairs a step, over all processes"),
    Flag("lr",              1e-4,  4e-3, None, (1e-8, 10),   "AdamW's learning rate"),
    Flag("cosine",         False,  True, None, None,         "warm-up, then a cosine to 0"),
    Flag("weight_decay",    1e-2,  None, None, (0, 10),      "AdamW's weight decay"),
    Flag("clip",             1.0,  None, None, (1e-6, 1e9),  "limit of the gradient's norm"),
    Flag("ema",           0.9999,  None, None, (0, 0.99999), "decay of the averaged weights"),
    Flag("width",           2048,   256, None, (8, 16384),   "hidden width of the network"),
    Flag("layers",            10,  None, None, (2, 200),     "its layers"),
    Flag("dropout",          0.0,  None, None, (0, 0.99),    "in each layer; MT gives no rate"),
    Flag("T",               1000,  None, None, (9, 100_000), "diffusion steps of the schedule"),
    Flag("p",               0.05,  None, None, (0, 1),       "chance of dropping the condition"),
    Flag("lam1",             1.0,  None, None, (0, 1e6),     "weight of L_recon, MT Eq. 8"),
    Flag("lam2",             2.0,  None, None, (0, 1e6),     "weight of L_ddim, MT Eq. 2"),
    Flag("recon_steps",        1,  None, None, (1, 100),     "DDIM steps inside L_recon"),
    Flag("predict",        "z_0",  None, None, None,         "what the network outputs; MT: eps",
         choices=("z_0", "eps", "v")),
    Flag("objective",    "ridge",  None, None, None,         "M solved, by MT Eq. 9, or Lemma 1",
         choices=("ridge", "joint", "residual")),
    Flag("normalize",      "one",  None, None, None,         "F by one number, or row by row",
         choices=("one", "row")),
    Flag("unit",           False,  None, None, None,         "c and z are divided by their norm"),
    Flag("released",          "",  None, None, None,         "switches of as_released.py, or all"),
    Flag("faded",           True,  None, None, None,         "the network sees sqrt(alpha_t) z_t"),
    Flag("bare",            0.05,  None, None, (0, 1),       "share of bare names, text->image"),
    Flag("gamma",         "auto",  None, None, (0, 1e6),     "weight of F; auto: validation"),
    Flag("omega",            5.0,   0.0, None, (-1, 100),    "guidance, MT Eq. 4; 0 is none"),
    Flag("K",                 16,  None,    4, (1, 4096),    "samples averaged in F"),
    Flag("ddim_steps",        20,     2, None, (1, 1000),    "DDIM steps of a sample"),
]
# fmt: on


# The paper, where it says anything, and what its authors ran (as_released.py). Both are about the
# method: sizes and the learning rate stay those of the data set.
AS_PRINTED = {
    "objective": "joint",
    "predict": "eps",
    "normalize": "row",
    "faded": False,
    "omega": 5.0,
    "gamma": "1",
    "K": 1,
    "ddim_steps": 50,
}
AS_RELEASED = AS_PRINTED | {
    "lam1": 2.0,
    "lam2": 1.0,
    "recon_steps": 50,
    "ema": 0.0,
    "unit": True,
    "released": "all",
}
PRESETS = {"as-printed": AS_PRINTED, "as-released": AS_RELEASED}


def parse(argv=None):
    """The arguments of a run, every default filled in. RunError for values that cannot be."""
    parser = shared_parser("Train MT's translator.", TRANSLATOR_SETS, FLAGS)
    parser.add_argument("--pairs", type=int, help="train on so many pairs only, drawn by --seed")
    parser.add_argument("--preset", choices=tuple(PRESETS), help="MT's settings instead of ours")
    args = parser.parse_args(argv)
    # A name of the other script gets a better answer than "no such set".
    known(args.dataset, TRANSLATOR_SETS)
    for name, value in PRESETS.get(args.preset, {}).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    resolve(args, FLAGS, "translator")
    if args.pairs is not None:
        within("--pairs", args.pairs, 2, ENDLESS)
    # The defaults of a set of one's own are not known yet: it is checked in `train`.
    if not by_size(args):
        check_method(args)
    return args


def check_method(args):
    """RunError for values that do not go together."""
    if args.gamma != "auto":
        args.gamma = number("--gamma", args.gamma, 0, 1e6)
    if args.ddim_steps > args.T or args.recon_steps > args.T:
        raise RunError(f"--ddim-steps and --recon-steps are at most --T, {args.T}")
    if args.lam1 == args.lam2 == 0:
        raise RunError("--lam1 and --lam2 are both 0: nothing would be trained")
    if args.objective == "joint" and args.lam1 == 0:
        raise RunError("--lam1 0 leaves M untrained: with it say --objective ridge or residual")
    check_switches(args)


def check_switches(args):
    """RunError for a --released that is no switch, or that needs another flag."""
    try:
        on = switches_of(args.released)
    except ValueError as error:
        raise RunError(f"--released: {error}") from None
    # What is solved in closed form would not feel what these two do to M.
    solved = [name for name in ("bias", "zscore") if name in on and args.objective != "joint"]
    if solved:
        raise RunError(f"--released {solved[0]} needs --objective joint")
    # At a small t the network's guess of z_0 is z_t itself, and L_recon would teach nothing.
    if "rows" in on and args.recon_steps == 1:
        raise RunError("--released rows needs --recon-steps 2 or more")


# --------------------------------------------------------------------------------------------------
# One direction, and one step of it


class Learner:
    """One direction in training: the translator, its moving average, optimiser and loss scaler.

    latents, validation: the Latents to train on, and those by which ridge's lambda, gamma and the
    best checkpoint are chosen."""

    def __init__(self, direction, latents, validation, args, device):
        self.direction, self.args, self.device = direction, args, device
        self.latents, self.validation = latents, validation
        h1, h2 = latents.dims(direction)
        self.net = make_translator(args, h1, h2)
        # Means, scales and M, once; then the network may move to the GPU.
        c, z = self.validation_pairs(5000)
        found = moments(self.prepared_chunks())
        lam = best_ridge(found, self.net.prepared(c), z)
        self.net.fit(found, lam)
        self.net.to(device)

        # The weights at the end of a run still jump about with each batch. Their exponential
        # moving average, ema <- decay ema + (1 - decay) weights, is smoother and scores better:
        # it is never trained itself, and it is what gets evaluated.
        self.ema = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(args.ema))

        # M is solved and frozen, unless the objective is "joint": the rest is trained.
        self.trained = [p for p in self.net.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.trained, args.lr, weight_decay=args.weight_decay, fused=True
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=args.amp == "fp16")

        # Sums of the three losses and of the gradient's norm since the last row of the log.
        self.sums = torch.zeros(4, device=device)
        self.counts = torch.zeros(4)
        # The best averaged weights so far; gamma and length of Eq. 5 are measured at the end.
        self.best = {"cosine": -1.0, "step": 0, "weights": None}
        self.gamma = self.length = None

    def prepared_chunks(self):
        """All training pairs (c, z), as the translator's `fit` takes them."""
        for c, z in self.latents.chunks(self.direction):
            yield self.net.prepared(c), self.net.prepared(z)

    def state(self):
        """What a checkpoint keeps: all that the next step depends on."""
        parts = {k: getattr(self, k).state_dict() for k in ("net", "ema", "optimizer", "scaler")}
        return {**parts, "best": self.best, "gamma": self.gamma, "length": self.length}

    def load(self, state):
        for k in ("net", "ema", "optimizer"):
            getattr(self, k).load_state_dict(state[k])
        if state["scaler"]:  # empty in a run that was not in fp16 until now
            self.scaler.load_state_dict(state["scaler"])
        self.best = state["best"]

    def validation_pairs(self, limit):
        """Raw (c, z) of at most `limit` validation pairs: every k-th, always the same ones."""
        full = self.validation.full
        k = -(-len(full) // limit)  # rounded up
        return self.validation.of(self.direction, full[::k])

    def check(self, step):
        """Keep the averaged weights if they are the best on validation pairs until now.

        On few pairs a network begins to learn them by heart: the loss still falls, and the answers
        to new conditions get worse. The weights before that are the ones to have."""
        # A rough look is enough to compare: 500 pairs, 4 samples.
        cosine = self.measure(500, K=4)[2]
        if cosine > self.best["cosine"]:
            weights = {k: v.detach().clone() for k, v in self.ema.module.state_dict().items()}
            self.best = {"cosine": cosine, "step": step, "weights": weights}

    def measure(self, limit, K):
        """(gamma, length, mean cosine) of Eq. 5 with the averaged weights, on validation pairs.

        gamma: --gamma, or the best one. length: the number by which z_hat, a direction, is
        multiplied to be as near to z as it can: <z, z_hat> / <z_hat, z_hat>, all pairs together.
        No cosine changes by it, but a centred cosine does, and a picture."""
        args = self.args
        c, z = (x.to(self.device) for x in self.validation_pairs(limit))
        # Without dropout, as in the tables: with it F is noisier, and the best gamma smaller.
        translator = self.ema.module.eval()
        how = {"steps": args.ddim_steps, "omega": args.omega, "K": K}
        cM, F = translator.terms(c, randn=cpu_randn(args.seed), **how)
        gamma = best_gamma(cM, F, z) if args.gamma == "auto" else args.gamma
        z_hat = (cM + gamma * F) / translator.z_scale
        length = ((z * z_hat).sum() / z_hat.square().sum().clamp(min=1e-12)).item()
        return gamma, length, cosine_of(z_hat, z)

    def finish(self):
        """The best weights become the averaged ones, and gamma and length are measured on them."""
        self.ema.module.load_state_dict(self.best["weights"])
        self.best["weights"] = None
        self.gamma, self.length, _ = self.measure(5000, self.args.K)


def train_step(learner, batch, step, args, device, world=1):
    """One update of one direction. Adds the losses and the gradient's norm to learner.sums."""
    c, z, noise = batch
    c, z = c.to(device), z.to(device)
    noise = Noise(*(part.to(device) for part in noise))

    # gamma is measured at the end, on validation pairs; until then it is MT's 1. In our units 1 is
    # a small weight, so that F cannot take over what M should learn (PAPERS.md, D5).
    gamma = 1.0 if args.gamma == "auto" else args.gamma

    for group in learner.optimizer.param_groups:
        group["lr"] = learning_rate(step, args)
    learner.ema.multi_avg_fn = get_ema_multi_avg_fn(ema_decay(step, args))

    # Mixed precision, step by step. Inside autocast, matrix products are done in 16 bits; sums,
    # norms and the loss itself, where 16 bits would lose too much, stay in 32.
    with torch.autocast(device.type, AMP[args.amp], enabled=args.amp != "off"):
        losses = learner.net.loss(c, z, noise, gamma, args.lam1, args.lam2, args.recon_steps)

    # In fp16 numbers below 6e-8 are 0, and many gradients are that small. So the loss is multiplied
    # by a large factor before the backward pass, and all gradients with it. (With bf16 and float32
    # the scaler is switched off: its four calls below then do nothing extra.)
    learner.optimizer.zero_grad(set_to_none=True)
    learner.scaler.scale(losses[0]).backward()

    # Several processes: each has the gradient of its slice of the batch; take the mean. A weight
    # that has no part in the loss has no gradient, in every process the same ones.
    if world > 1:
        average_gradients([p for p in learner.trained if p.grad is not None], world)

    # The factor is divided out again BEFORE clipping: the limit is about true gradients. Clipped
    # first, scaled gradients would nearly all be cut to the limit.
    learner.scaler.unscale_(learner.optimizer)
    norm = torch.nn.utils.clip_grad_norm_(learner.trained, args.clip)

    # If the factor was too large, gradients have overflowed to Inf: then `step` leaves the weights
    # as they are, and `update` halves the factor. After 2,000 good steps it doubles it.
    learner.scaler.step(learner.optimizer)
    learner.scaler.update()

    learner.ema.update_parameters(learner.net)
    learner.sums += torch.stack([*losses, norm]).detach().float()
    learner.counts += 1


def train_round(learner, steps, args, device, rank, world):
    """The next steps of one direction; in one of several processes, on its slice of each batch."""
    mine = slice(rank * args.batch // world, (rank + 1) * args.batch // world)
    for step in steps:
        # A step draws its batch by its number, so a resumed run sees the same batches, and so does
        # dropout. Other random numbers there are none.
        if args.dropout:
            torch.manual_seed(args.seed * 1_000_003 + step * world + rank)
        batch = draw_batch(learner.latents, learner.direction, step, args, mine)
        train_step(learner, batch, step, args, device, world)


# --------------------------------------------------------------------------------------------------
# The run


def train(args):
    """Train what the arguments say, into args.out; with --resume, a finished run stays as it is.

    -> the device, in the one process that goes on to evaluate; None in the others."""
    rank, world, device = start_processes(args.device)
    args.amp = choose_amp(args.amp, device)
    splits = load_splits(args)
    pairs = int((~splits["train"].bare).sum())
    told = fit_to_data(args, FLAGS, min(pairs, args.pairs or pairs), device)
    if told:
        check_method(args)
        if rank == 0:
            print(told)
    # Every eighth row of the batch has a part of its own in the loss (see draw_noise): the slice
    # of each process has to begin with such a row.
    if args.batch % (ROWS_AT_T * world):
        told = f"is not a multiple of {ROWS_AT_T} x {world} process(es)"
        raise RunError(f"--batch {args.batch} {told}")
    if args.overfit:
        overfit.one_process(world)
        return overfit.translator(args, device, splits, Learner, train_step, LOSSES)
    # These look at a batch as a whole, and a process sees its slice only.
    whole = [name for name in switches_of(args.released) if name in ("norm", "drop")]
    if whole and world > 1:
        raise RunError(f"--released {whole[0]} is for one process, not for {world}")
    with RunFolder(args, "translator", LOSSES, rank) as folder:
        if not folder.finished:
            train_in(folder, splits, args, device, rank, world)
    return device if rank == 0 else None


def train_in(folder, splits, args, device, rank, world):
    """Data, learners, THE LOOP, and what is measured after it."""
    folder.say_settings()
    found = load_latents(args, device, rank, world, folder.old, splits)
    folder.check_data(found.keys)
    for direction in DIRECTIONS:
        check_trainable(found.train, direction)
    torch.manual_seed(args.seed)  # every process starts from the same weights
    learners = [Learner(d, found.train, found.val, args, device) for d in DIRECTIONS]
    folder.say(size_of(learners[0].net, device, world))
    folder.start(learners, found.encoders)

    # THE LOOP, a few dozen steps at a time: then there is a row of the log to write, or a
    # checkpoint, or the weights are compared with those before. The two directions need nothing of
    # each other: on a CPU each has a thread of its own.
    every = max(25, args.steps // 20)
    for steps in folder.rounds(every):
        go = functools.partial(
            train_round, steps=steps, args=args, device=device, rank=rank, world=world
        )
        side_by_side(go, learners, device, random=args.dropout > 0)
        done = steps.stop
        if rank == 0 and (done % every == 0 or done == args.steps):
            for learner in learners:
                learner.check(done)
        folder.record(done, learning_rate(done - 1, args))

    if world > 1:
        torch.distributed.destroy_process_group()
    if rank == 0:
        for learner in learners:
            learner.finish()
            folder.say(told_of(learner))
        draw_losses(folder.log, os.path.join(args.out, "loss.png"), LOSSES)
        folder.finish()


def told_of(learner):
    """ "text->image: validation cosine 0.6421 at step 2,660, the best; gamma 61.20" """
    best, cosine = learner.best["step"], learner.best["cosine"]
    told = f"validation cosine {cosine:.4f} at step {best:,}, the best"
    return f"{learner.direction}: {told}; gamma {learner.gamma:.2f}"


def size_of(net, device, world):
    """ "1.23 M parameters a direction, ...", to be printed."""
    count = sum(p.numel() for p in net.parameters()) / 1e6
    inner = sum(p.numel() for p in net.net.parameters()) / 1e6
    where = f"{device} x {world}"
    return f"{count:.2f} M parameters a direction, {inner:.2f} M in the diffusion network; {where}"


def main(argv=None):
    args = parse(argv)
    device = train(args)
    if device is not None:
        evaluate.main([args.out, "--first-look", "--device", str(device)])


GOES_ON = "stopped; the same command with --resume goes on from the last checkpoint"

if __name__ == "__main__":
    run_script("train.py", main, GOES_ON)
