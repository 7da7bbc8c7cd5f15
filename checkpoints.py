"""
checkpoints.py: a run on disk while it is trained, for both papers.

    RUN/model.pt    the checkpoint: weights, averages, optimisers, encoders, arguments, data keys
    RUN/log.csv     a row every 50 steps: losses, gradient norm, learning rate, speed

What a run may suffer, and what is promised: killed at any step, it goes on with --resume and ends
with the same numbers, bit for bit. Half a file is never taken for a whole one. A second process
that wants the same folder is refused. And a resumed run that would go on with other settings, or
with data that have changed meanwhile, is refused by name: it would be half of one run and half of
another, and nobody could tell.

Map      save_checkpoint, load_checkpoint     one file, whole or not at all, without pickles
         read_run, restore                    what is in it, checked before it is used
         RunFolder                            the folder while a run is trained
         trained_run                          trains what a table needs, unless it is there
Letters  a learner: one direction in training (train.py, train_bridge.py)
"""

import argparse
import contextlib
import glob
import math
import os
import time

import torch
from tqdm import tqdm

from errors import RunError
from safe_files import Lock, whole

# What --resume may give anew: it says where and how to compute, not what.
MAY_CHANGE = "out resume overwrite device data_dir cache_dir save_every keep_every".split()
MAY_CHANGE += ["download", "amp", "overfit"]  # overfit: never with --resume
LOG_EVERY = 50  # steps
# The arguments from which each model's networks are built again.
SHAPES = {
    "translator": "width layers dropout T predict objective faded normalize unit released".split(),
    "bridge": "tokens dim width heads layers conv kernel design tau loss data_space".split(),
}


def save_checkpoint(path, checkpoint):
    """Write beside, then rename: a kill leaves the old checkpoint or the new one, no half.

    Raises RunError where the disk is full or the folder is not ours to write to."""
    try:
        with whole(path) as temporary:
            torch.save(checkpoint, temporary)
    except (OSError, RuntimeError) as error:  # torch's writer has errors of its own
        reason = str(error).splitlines()[0]
        raise RunError(f"cannot write {path}: {reason}") from None


def load_checkpoint(path):
    """A checkpoint as tensors, dicts, numbers and strings.

    weights_only: a pickle may run any program when it is opened, so pickled objects are refused."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise RunError(f"{path}: no such checkpoint; python train.py makes one") from None
    except Exception as error:  # anything may be in a file
        kind = type(error).__name__
        raise RunError(f"{path}: broken, or not made by our training scripts ({kind})") from None


def load_if_same(path, stamp):
    """What was trained and saved at `path` with the same stamp; None if there is no such thing."""
    if not os.path.exists(path):
        return None
    saved = load_checkpoint(path)
    same = isinstance(saved, dict) and {key: saved.get(key) for key in stamp} == stamp
    return saved if same else None


def read_run(folder):
    """RUN/model.pt as a training script left it, its parts checked.

    RunError for one that is unreadable, foreign, or lacks a part."""
    folder = os.path.expanduser(folder)
    if not os.path.isdir(folder):
        raise RunError(f"{folder}: no such folder, no such checkpoint; train.py makes it")
    path = os.path.join(folder, "model.pt")
    return checked(path, load_checkpoint(path))


def checked(path, saved):
    """The checkpoint, if it has all that a run consists of; RunError names what it lacks."""
    # Every part that is used later, with its type: a file of another program has other ones.
    parts = {"model": str, "step": int, "args": dict, "encoders": dict, "learners": dict}
    for name, kind in parts.items():
        if not isinstance(saved, dict) or not isinstance(saved.get(name), kind):
            raise RunError(f"{path}: not a checkpoint of train.py or train_bridge.py: no {name!r}")
    # The arguments that the networks are built from again.
    args, model = saved["args"], saved["model"]
    lacking = [name for name in [*SHAPES.get(model, ["model"]), "steps"] if name not in args]
    if lacking:
        raise RunError(f"{path}: its arguments lack {lacking[0]!r}: made by another version?")
    if not 0 <= saved["step"] <= args["steps"]:
        raise RunError(f"{path}: it says step {saved['step']} of {args['steps']}")
    for direction, state in saved["learners"].items():
        if not isinstance(state, dict) or not {"net", "ema"} <= state.keys():
            raise RunError(f"{path}: the weights of {direction} are missing")
    return saved


def restore(path, direction, load):
    """load(), which puts saved weights into a network; RunError if they do not fit."""
    try:
        return load()
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{path}: {direction} is of another network ({reason})") from None


def averaged_weights(path, state):
    """The state dict of the averaged weights, the ones that are used, from a learner's state.

    RunError where there are none, or where one is NaN: then nothing can be evaluated."""
    # AveragedModel puts "module." before the names of the network it averages, and adds a counter.
    weights = {}
    for name, value in state["ema"].items():
        if name.startswith("module."):
            weights[name.removeprefix("module.")] = value
    for name, value in weights.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise RunError(f"{path}: {name} holds NaN or Inf: train again, with a smaller --lr")
    return weights


def check_resumable(path, checkpoint, args):
    """RunError if the run at `path` was made with other settings than these."""
    old, new = checkpoint["args"], vars(args)
    changed = [name for name in new if name not in MAY_CHANGE and old.get(name) != new[name]]
    if changed:
        told = [f"--{n.replace('_', '-')} was {old.get(n)}, now {new[n]}" for n in changed]
        raise RunError(
            f"{path} has other settings ({', '.join(told)}): give the same, or another --out"
        )


# --------------------------------------------------------------------------------------------------
# The folder of a run in training


class RunFolder:
    """The files of a run while it is trained; in processes of rank > 0 it writes nothing.

        with RunFolder(args, "translator", LOSSES, rank) as folder: ...

    model    "translator" or "bridge"
    losses   names of the losses, in the order of learner.sums
    old      the checkpoint that --resume goes on from, or None
    Raises RunError where a run is in the way, where --resume finds other settings or other data,
    and where another process is at work in the folder."""

    def __init__(self, args, model, losses, rank=0):
        self.args, self.model, self.losses, self.writes = args, model, losses, rank == 0
        self.path = os.path.join(args.out, "model.pt")
        self.log = os.path.join(args.out, "log.csv")
        self.began = self.clock = time.time()
        self.old = self.find_old()

    def find_old(self):
        """The checkpoint that --resume goes on from. RunError where a run is in the way."""
        there = os.path.exists(self.path)
        if self.args.resume:
            # A run that was stopped before its first checkpoint has begun its log already.
            if not there and os.path.exists(self.log):
                self.say(f"{self.args.out} has no checkpoint yet: from the beginning")
                return None
            old = checked(self.path, load_checkpoint(self.path))
            check_resumable(self.path, old, self.args)
            return old
        if there and not self.args.overwrite:
            raise RunError(
                f"{self.path} exists: --resume goes on, --overwrite replaces it, "
                "--out names another"
            )
        return None

    def __enter__(self):
        if self.writes:
            self.made = not os.path.exists(self.args.out)
            told = f"{self.args.out} is in use by another run: give another --out"
            self.lock = Lock(os.path.join(self.args.out, ".lock"), told)
            self.lock.__enter__()
        return self

    def __exit__(self, *error):
        if self.writes:
            self.lock.__exit__(*error)
            # Wrong data are found after the folder was made: then it is empty, and goes again.
            if self.made:
                with contextlib.suppress(OSError):
                    os.rmdir(self.args.out)

    @property
    def finished(self):
        """Whether there is nothing left to train."""
        return bool(self.old and self.old.get("finished"))

    def say(self, line):
        if self.writes:
            print(line, flush=True)

    def say_settings(self):
        """The values of all flags, as they could be typed: the first line that a run prints."""
        # Neither what was not given nor switches that are off: but 0 is a value.
        off = (None, False, "")
        given = {k: v for k, v in vars(self.args).items() if not any(v is x for x in off)}
        words = []
        for name, value in given.items():
            option = f"--{name.replace('_', '-')}"
            words.append(option if value is True else f"{option} {value}")
        self.say(" ".join(words))

    def check_data(self, keys):
        """keys: {split: key}, which change with the data. RunError if they are not the old ones."""
        self.keys = keys
        if not self.old:
            return
        before = self.old.get("data", {})
        for split, key in keys.items():
            if before.get(split) != key:
                raise RunError(
                    f"{self.args.out}: the {split} data are not those that this run began with: "
                    "bring them back, or train a new run with another --out"
                )

    def start(self, learners, found):
        """Take what a resumed run had; open the log. found: {modality: encoder}."""
        self.learners, self.encoders = learners, found
        self.first = 0
        if self.old:
            self.first = self.old["step"]
            for learner in learners:
                state = self.old["learners"].get(learner.direction, {})
                restore(self.path, learner.direction, lambda ln=learner, s=state: ln.load(s))
            self.say(f"resumed {self.path} at step {self.first}")
        elif self.writes:
            # --overwrite: an old checkpoint that stayed would be taken for this run's own, if this
            # run is killed before its first one.
            out = glob.escape(self.args.out)
            copies = glob.glob(f"{out}/step-*/model.pt")
            halves = glob.glob(f"{out}/model.pt.*.tmp")
            for path in [self.path, self.log, *copies, *halves]:
                with contextlib.suppress(FileNotFoundError):
                    os.remove(path)
        if self.writes:
            self.start_log()
        self.since, self.clock = self.first, time.time()

    def steps(self):
        """The steps still to do, with a progress bar where somebody watches."""
        return tqdm(range(self.first, self.args.steps), **self.bar())

    def rounds(self, every):
        """The steps still to do, in ranges that end where something is due: a row of the log, a
        checkpoint, or what the caller does after each multiple of `every` steps."""
        marks = (every, LOG_EVERY, self.args.save_every)
        with tqdm(**self.bar()) as bar:
            done, began = self.first, time.time()
            while done < self.args.steps:
                end = min(self.args.steps, *(done - done % mark + mark for mark in marks))
                yield range(done, end)
                bar.update(end - done)
                if done == self.first:
                    self.say_time(end, time.time() - began)
                done = end

    def say_time(self, done, seconds):
        """After the first round, which took `seconds`: how long this will take, roughly."""
        rate = (done - self.first) / seconds
        minutes = (self.args.steps - done) / rate / 60
        self.say(f"{rate:.1f} steps/s: about {minutes:.0f} minutes to go")

    def bar(self):
        """What both progress bars are like."""
        hidden = None if self.writes else True  # None: shown on a terminal only
        return {
            "desc": "train",
            "total": self.args.steps,
            "initial": self.first,
            "disable": hidden,
        }

    def record(self, done, lr):
        """After `done` steps: a row of the log every 50, a checkpoint every --save-every."""
        keep = done % self.args.save_every == 0 or done == self.args.steps
        if not self.writes:
            return
        if keep or done % LOG_EVERY == 0:
            self.write_log(done, lr)
        if keep:
            self.save(done)
        every = getattr(self.args, "keep_every", 0)  # the translator has no such flag
        if every and done % every == 0 and done < self.args.steps:
            self.save_copy(done)

    def finish(self):
        """The last checkpoint, marked as finished: all else of the run is on the disk by now."""
        self.save(self.args.steps, finished=True)
        seconds = time.time() - self.began
        self.say(f"trained in {seconds:.0f} s: {self.path}, {self.log}")

    def save_copy(self, step):
        """RUN/step-N/model.pt, as if training had ended there: it can be evaluated, not resumed."""
        folder = os.path.join(self.args.out, f"step-{step}")
        os.makedirs(folder, exist_ok=True)
        checkpoint = self.checkpoint(step, finished=True)
        for state in checkpoint["learners"].values():
            state.pop("optimizers")  # two numbers a weight, of use for the next step alone
        save_checkpoint(os.path.join(folder, "model.pt"), checkpoint)

    def save(self, step, finished=False):
        save_checkpoint(self.path, self.checkpoint(step, finished))

    def checkpoint(self, step, finished):
        return {
            "model": self.model,
            "step": step,
            "finished": finished,
            "args": vars(self.args),
            "data": self.keys,
            "encoders": {name: encoder.state() for name, encoder in self.encoders.items()},
            "learners": {learner.direction: learner.state() for learner in self.learners},
        }

    def start_log(self):
        """A fresh log.csv; on resume the old one up to the checkpoint: the rest comes again."""
        header = ",".join(["step,direction", *self.losses, "grad_norm,lr,steps_per_s"])
        rows = []
        if self.first and os.path.exists(self.log):
            with open(self.log) as f:
                old_rows = f.read().splitlines()[1:]
            # The last row may be half a one: the kill may have come while it was written.
            whole_rows = [r for r in old_rows if r.count(",") == header.count(",")]
            rows = [row for row in whole_rows if int(row.split(",")[0]) <= self.first]
        with whole(self.log) as temporary, open(temporary, "w") as f:
            f.write("\n".join([header, *rows]) + "\n")

    def write_log(self, done, lr):
        """One row a direction: means over the steps since the last row. RunError on NaN or Inf."""
        seconds, count = time.time() - self.clock, done - self.since
        # Sums are kept on the device and read once in 50 steps: every look at a GPU's number waits
        # until the GPU has finished.
        rows = []
        for learner in self.learners:
            means = (learner.sums.cpu() / learner.counts.clamp(min=1)).tolist()
            learner.sums.zero_()
            learner.counts.zero_()
            self.stop_at_nan(done, learner.direction, means[:3])
            cells = [f"{x:.6g}" for x in (*means, lr, count / seconds)]
            rows.append(",".join([str(done), learner.direction, *cells]) + "\n")
        with open(self.log, "a") as f:
            f.write("".join(rows))
        self.since, self.clock = done, time.time()

    def stop_at_nan(self, done, direction, losses):
        """A NaN spreads to all weights within a step: training on would be for nothing."""
        broken = [x for x in losses if not math.isfinite(x)]
        if not broken:
            return
        kept = "there is no checkpoint yet"
        if os.path.exists(self.path):
            kept = "the checkpoint is of an earlier, good step"
        raise RunError(
            f"step {done}: the loss of {direction} is {broken[0]}; {kept}. Try a smaller --lr, "
            "--amp off or bf16, a smaller --clip; look for outliers in the latents"
        )


def trained_run(script, argv, device):
    """The folder where `script` (the module train or train_bridge) leaves the run of argv.

    Trained now, gone on with, or there already. A run of other settings in that folder is of an
    earlier try: it is trained again."""
    # The tables that call this compare several trainings: a second call should find them all.
    args = script.parse([*argv, "--device", str(device)])
    path = os.path.join(args.out, "model.pt")
    if os.path.exists(path):
        try:
            saved = checked(path, load_checkpoint(path))
            # Defaults of a set of one's own are open until it is read: they will be the same again.
            still_open = {k: saved["args"].get(k) for k, v in vars(args).items() if v is None}
            check_resumable(path, saved, argparse.Namespace(**vars(args) | still_open))
            args.resume = True
        except RunError:
            args.overwrite = True
    script.train(args)
    return args.out
