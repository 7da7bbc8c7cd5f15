"""
Wiring: each part may be right and the run wrong, because a part was given the wrong thing.

Which split feeds which choice; which weights are evaluated, and in which mode; in which order a
step goes; what each row, direction and step draws for itself. Every run is real and tiny: 600 pairs
of vectors (11 and 7 numbers), or 60 pairs of images. Run: pytest tests/test_wiring.py
"""

import collections
import copy
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel

import baselines
import bridge_scores
import checkpoints
import data
import ddim_translator
import evaluate
import evaluate_bridge
import latent_bridge
import pictures
import runs
import scores
import train
import train_bridge
from closed_form import best_gamma
from ddim_translator import Translator
from errors import RunError
from glyphs import Pairs
from latents import DIRECTIONS

CPU = torch.device("cpu")
SPLITS = ("train", "val", "test")
TRAIN, VAL, TEST, BOTH = {"train"}, {"val"}, {"test"}, {"train", "test"}
TINY = "--steps 12 --width 24 --layers 3 --batch 32 --ema 0.9 --lr 3e-3 --seed 3"
# "joint": a dozen steps leave M poor, so that F is of use, and gamma is a number to compare.
METHOD = "--objective joint --no-cosine --lr 5e-2 --dropout 0.5 --ddim-steps 3 --K 3 --omega 0.5"
BRIDGE = "--tokens 4 --dim 6 --width 16 --heads 2 --layers 1 --conv 16 --batch 16 --steps 4"


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """flags("--steps 7", out="x"): a command line on 600 pairs of vectors."""
    top = tmp_path_factory.mktemp("wiring")
    rng = np.random.default_rng(0)
    a = rng.normal(size=(600, 11)).astype(np.float32)
    b = np.cos(1.5 * a[:, :7]) + 0.3 * a[:, 4:]  # mostly curved: so F is of use, and gamma > 0
    np.save(top / "a.npy", a)
    np.save(top / "b.npy", b.astype(np.float32))

    def make(more="", out="run"):
        files = f"--dataset latents --image-latents {top}/a.npy --text-latents {top}/b.npy"
        return f"{files} --out {top / out} --cache-dir {top}/cache --device cpu {more}".split()

    return make


@pytest.fixture
def learner(flags):
    """learner("--amp fp16"): one direction of a translator in training, as train.py makes it."""

    def make(more="", direction="text->image"):
        args = train.parse(flags(f"{TINY} {more}"))
        args.amp = args.amp or "off"
        train.fit_to_data(args, train.FLAGS, 540, CPU)
        found = runs.load_latents(args, CPU, 0, 1)
        torch.manual_seed(0)
        made = train.Learner(direction, found.train, found.val, args, CPU)
        made.data = found.train
        return made

    return make


@pytest.fixture
def bridge(flags):
    """bridge("--amp fp16"): one direction of a bridge in training."""

    def make(more="", direction="text->image"):
        args = train_bridge.parse(flags(f"{BRIDGE} --lr 1e-3 --lr-modality 3e-3 {more}"))
        args.amp = args.amp or "off"
        found = runs.load_latents(args, CPU, 0, 1)
        torch.manual_seed(0)
        pairs = runs.LatentPairs(found.train, direction)
        return train_bridge.BridgeLearner(direction, pairs, args, CPU)

    return make


def step_of(made, step=0):
    """One step of either kind of learner, on the batch of that step."""
    if isinstance(made, train_bridge.BridgeLearner):
        train_bridge.train_step(made, train_bridge.draw_batch(made, step), step)
        return
    batch = runs.draw_batch(made.data, made.direction, step, made.args)
    train.train_step(made, batch, step, made.args, CPU)


def flat(tree, path=""):
    """Every tensor and number of nested dicts and lists: {path: copy}."""
    if isinstance(tree, dict | list | tuple):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {k: v for key, part in items for k, v in flat(part, f"{path} {key}").items()}
    return {path: torch.as_tensor(0 if tree is None else tree).clone()}


def differ(a, b):
    assert a.keys() == b.keys()
    return {k for k in a if not torch.equal(a[k], b[k])}


# -- which split feeds what


class Story:
    """seen[phase][what]: the splits whose rows were given to it, found by the rows' own values."""

    def __init__(self, patch):
        self.patch, self.phase, self.owner = patch, "", {}
        self.seen = collections.defaultdict(lambda: collections.defaultdict(set))
        self.rows = collections.defaultdict(int)

    def knows(self, split, items):
        for row in np.ascontiguousarray(items):
            self.owner[row.tobytes()] = split

    def note(self, what, items):
        for row in np.ascontiguousarray(items):
            self.seen[self.phase][what].add(self.owner[row.tobytes()])
        self.rows[self.phase, what] += len(items)

    def spy(self, where, name, look):
        """look(result, *args, **how) -> {what: [arrays of rows]}, of each call of where.name."""
        real = getattr(where, name)

        def wrapped(*args, **how):
            result = real(*args, **how)
            for what, arrays in (look(result, *args, **how) or {}).items():
                for items in arrays:
                    self.note(what, items)
            return result

        self.patch.setattr(where, name, wrapped)

    def asked(self, result, name, root=None, split="train", **options):
        self.seen[self.phase]["asked"].add(split)

    def mode(self, name, module):
        self.seen[self.phase][name].add("training" if module.training else "evaluation")


def every_consumer(story):
    """Whatever takes rows, of both papers, with a spy at its door."""
    patch, spy = story.patch, story.spy
    spy(data, "load", story.asked)
    spy(runs, "load_pairs", story.asked)
    rows = lambda items: [] if items is None else [items[np.arange(len(items))]]
    spy(runs.encoders, "make", lambda E, spec, side, items, *a, **k: {"encoders": rows(items)})
    spy(train, "draw_batch", lambda batch, *args: {"batches": batch[:2]})
    spy(train_bridge, "draw_batch", lambda batch, *args: {"batches": batch[:2]})
    spy(latent_bridge.Bridge, "fit", lambda _, self, y, x, *how: {"units": [y, x]})
    spy(train, "best_ridge", lambda _, found, c, z: {"lambda of M": [c, z]})
    spy(train, "best_gamma", lambda _, cM, F, z: {"gamma": [z]})
    spy(train, "cosine_of", lambda _, z_hat, z: {"the best checkpoint": [z]})
    spy(baselines, "best_ridge", lambda _, found, c, z: {"lambda": [c, z]})
    spy(baselines, "knn", lambda _, c, z: {"knn": [c, z]})
    spy(baselines, "draw_batch", lambda batch, *args: {"mlp": batch[:2]})
    spy(scores.TestSet, "__init__", lambda _, self, *args: {"tables": [self.c, self.z]})
    test_set = bridge_scores.BridgeTestSet
    spy(test_set, "__init__", lambda _, self, *args: {"tables": [self.y, self.x]})
    # Raw items become scaled ones for the truth, and for the PCA behind FID: two splits in all.
    spy(test_set, "scaled", lambda _, self, x: {"truth and PCA": [x]})
    spy(runs.TranslatorRun, "terms", lambda _, self, direction, c, *a, **k: {"translated": [c]})
    spy(Translator, "terms", lambda _, self, *args, **how: story.mode("F", self))
    spy(Translator, "loss", lambda _, self, *args: story.mode("loss", self))
    spy(latent_bridge.Bridge, "loss", lambda _, self, *args: story.mode("loss", self))
    # The sums of closed_form.py see each chunk once.
    for module, what in ((train, "scales and M"), (baselines, "ridge")):
        real = module.moments

        def moments(chunks, real=real, what=what):
            chunks = list(chunks)
            for chunk in chunks:
                for items in chunk:
                    story.note(what, items)
            return real(chunks)

        patch.setattr(module, "moments", moments)


@pytest.fixture(scope="module")
def story(flags):
    """Training and evaluation of both papers, once, with all their consumers watched."""
    with pytest.MonkeyPatch.context() as patch:
        story, args = Story(patch), train.parse(flags())
        for split in SPLITS:
            found = data.load("latents", None, split, **runs.data_options(args))
            rows = np.arange(len(found.images))
            story.knows(split, found.images[rows])
            story.knows(split, found.captions[rows])
        rng, images = np.random.default_rng(1), {}
        for split, n in (("train", 40), ("val", 9), ("test", 11)):
            y, x = (rng.integers(0, 256, (n, 1, k, k), dtype=np.uint8) for k in (8, 16))
            story.knows(split, y)
            story.knows(split, x)
            images[split] = Pairs(y, x, split)
        patch.setattr(runs, "load_pairs", lambda name, root, split, **how: images[split])
        for module in (evaluate, evaluate_bridge, pictures):  # a second each
            patch.setattr(module, "save_figure", lambda *args: None)
        patch.setattr(evaluate_bridge, "draw_columns", lambda *args: None)
        for module in (train, train_bridge):
            patch.setattr(module, "draw_losses", lambda *args: None)
        every_consumer(story)

        story.phase = "train"
        train.train(train.parse(flags(f"{TINY} {METHOD}")))
        out = args.out
        for tasks in ("similarity ablation", "curves"):
            story.phase = tasks
            evaluate.main([out, "--seeds", "2", "--task", *tasks.split()])
        latents = flags(BRIDGE, "latents")
        items = f"--dataset glyph-edges --out {out}-images --device cpu {BRIDGE}"
        items = f"{items} --procedure iterative".split()
        for name, argv in (("latents", latents), ("images", items)):
            story.phase = f"train {name}"
            run = train_bridge.parse(argv)
            train_bridge.train(run)
            story.phase = name
            more = [] if name == "latents" else ["samples", "parts"]
            short = ["--nfe", "2", "--seeds", "2", "--task", "quality", *more]
            evaluate_bridge.main([run.out, *short])
        story.out = out
    return story


def test_every_split_does_its_own_job(story):
    """Otherwise a choice was made where it is reported, or a table shows what was trained on."""
    train_and_val = {"train", "val"}
    learns = {"asked": train_and_val, "encoders": TRAIN, "batches": TRAIN, "loss": {"training"}}
    fits = {"asked": set(SPLITS), "ridge": TRAIN, "lambda": VAL, "knn": TRAIN}
    tests = {**fits, "F": {"evaluation"}}
    expected = {
        "train": {**learns, "scales and M": TRAIN, "F": {"evaluation"}}
        | dict.fromkeys(["lambda of M", "gamma", "the best checkpoint"], VAL),
        "similarity ablation": {**tests, "mlp": TRAIN, "tables": TEST, "translated": TEST},
        "curves": {**tests, "translated": VAL},  # what omega, steps and K are chosen by
        "train latents": {**learns, "units": TRAIN},
        "latents": {**fits, "tables": TEST, "truth and PCA": TEST},  # R@k has no PCA
        "train images": {"asked": TRAIN, "batches": TRAIN, "units": TRAIN, "loss": {"training"}},
        "images": {"asked": BOTH, "tables": TEST, "truth and PCA": BOTH},
    }
    for phase in expected.keys() | story.seen.keys():
        assert (phase, dict(story.seen[phase])) == (phase, expected.get(phase))


def test_both_sides_had_their_turns(story):
    """Otherwise the loop tells a step the wrong number, and one side is never trained."""
    count = lambda optimizer: {int(v["step"]) for v in optimizer["state"].values()}
    sides = checkpoints.read_run(story.out)["learners"].values()
    assert all(count(side["optimizer"]) == {12} for side in sides)
    for side in checkpoints.read_run(f"{story.out}-images")["learners"].values():
        assert {k: count(o) for k, o in side["optimizers"].items()} == {
            "bridge": {2},
            "modality": {2},
        }


def test_rows_of_each_seed(story):
    """Otherwise +- is the spread of one number."""
    with open(f"{story.out}/translation.json") as f:
        rows = json.load(f)["rows"]
    for direction in DIRECTIONS:
        ours = [r for r in rows if (r["direction"], r["method"]) == (direction, "ours")]
        assert [r["seed"] for r in ours] == [0, 1] and ours[0]["cosine"] != ours[1]["cosine"]


# -- what is saved, and what is evaluated


def test_gamma_is_of_the_weights_that_are_used(story, flags):
    """Otherwise gamma suits raw weights, a network with dropout, other pairs, or other samples."""
    saved, run = checkpoints.read_run(story.out), runs.TranslatorRun(story.out, CPU)
    _, val = run.latents("val")
    for direction in DIRECTIONS:
        side = saved["learners"][direction]
        averaged = {k[7:]: v for k, v in side["ema"].items() if k.startswith("module.")}
        c, z = val.of(direction, val.full)

        def gamma_of(weights, training=False, c=c, z=z, steps=3, omega=0.5, K=3, d=direction):
            net = Translator(*val.dims(d), 24, 3, 0.5)
            net.load_state_dict(weights)
            net.train(training)
            randn = runs.cpu_randn(3)  # the run's seed
            return best_gamma(*net.terms(c, K, steps=steps, omega=omega, randn=randn), z)

        gamma = gamma_of(averaged)
        # The length is that of the same answers: nothing is left along z_hat.
        z_hat = run.translate(direction, c, seed=3)
        assert (z_hat * (z - z_hat)).sum().abs() < 1e-4 * (z_hat * z).sum()
        assert not differ(flat(averaged), flat(run.translators[direction].state_dict()))
        assert side["gamma"] == run.gamma[direction] == pytest.approx(gamma, rel=1e-5) and gamma > 0
        # Each of the slips would show.
        slips = [gamma_of(side["net"]), gamma_of(averaged, training=True), gamma_of(averaged, K=1)]
        slips += [gamma_of(averaged, steps=2), gamma_of(averaged, omega=0)]
        slips.append(run.gamma[DIRECTIONS[direction == DIRECTIONS[0]]])
        assert all(abs(slip / gamma - 1) > 1e-4 for slip in slips)


def test_measuring_gamma(learner, monkeypatch):
    """Otherwise it looks at the first pairs only, or training goes on without dropout."""
    made, seen, real = learner(METHOD), [], best_gamma
    monkeypatch.setattr(train, "best_gamma", lambda cM, F, z: seen.append(z) or real(cM, F, z))
    made.measure(10, K=2)
    val = made.validation
    rows = val.full[:: -(-len(val.full) // 10)]
    assert 5 < len(rows) <= 10 and torch.equal(seen[0], val.of("text->image", rows)[1])
    assert made.net.training and not made.ema.module.training


def test_what_is_evaluated_has_no_dropout(story):
    """Otherwise a table's answers change from call to call, and are worse than they need be."""
    run, c = runs.TranslatorRun(story.out, CPU), torch.randn(5, 7)
    bridges = runs.BridgeRun(f"{story.out}-images", CPU).bridges
    nets = [*run.translators.values(), *bridges.values()]
    assert not any(module.training for net in nets for module in net.modules())
    assert torch.equal(run.translate("text->image", c), run.translate("text->image", c))
    train_set, val = (run.latents(split)[1] for split in ("train", "val"))
    base = baselines.Baselines(run, "text->image", train_set, val)
    mlp = base.answers["mlp"]
    assert torch.equal(mlp(c), mlp(c))
    # What centred cosines subtract: of the training targets, the images.
    assert torch.allclose(base.mean, train_set.of("text->image", train_set.full)[1].mean(0))


# -- a sample in its own units


def test_a_sample_of_the_residual_has_its_size(learner):
    """Otherwise "residual" adds to c M a vector of the wrong length."""
    made = learner("--objective residual")
    net, latents = made.net, made.data
    c, z = latents.of("text->image", latents.full)
    by_least_squares = np.linalg.lstsq(np.c_[c, np.ones(len(c))], z.numpy(), rcond=None)[0]
    best = torch.from_numpy(np.c_[c, np.ones(len(c))] @ by_least_squares).float()
    left = (z - best).square().mean().item()
    # What the diffusion learns has size 1 ...
    seen, real = [], ddim_translator.noised
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ddim_translator, "noised", lambda z_0, *a: seen.append(z_0) or real(z_0, *a))
        net.loss(c, z, ddim_translator.draw_noise(len(c), 11, 1000))
    assert seen[0].square().mean().item() == pytest.approx(1, abs=0.01)
    # ... so a sampler that answers with size 1 has to come out as far from c M as z is.
    net.average_samples = lambda c, **how: torch.randn(len(c), 11)
    assert (net.sample(c) - best).square().mean().item() == pytest.approx(left, rel=0.05)


# -- the order of a step


@pytest.mark.parametrize("kind", ["translator", "bridge", "bridge in turns"])
def test_fp16_logs_and_clips_true_gradients(learner, bridge, kind):
    """Otherwise the scaled gradient is logged, or cut to the limit before it is unscaled."""
    make = learner if kind == "translator" else bridge
    turns = "--procedure end-to-end" if kind == "bridge" else ""
    norms, gradients = {}, {}
    for amp in ("off", "fp16"):
        made = make(f"--amp {amp} --clip 0.01 {turns}")
        for step in (0, 1):
            step_of(made, step)
        norms[amp] = (made.sums[3] / made.counts[3]).item()
        # After clipping all that has moved, or each side, has the norm of the limit.
        parts = [o.param_groups[0]["params"] for o in getattr(made, "optimizers", {}).values()]
        for part in parts or [made.trained]:
            moved = [p.grad.norm() for p in part if p.grad is not None]
            if moved:
                assert torch.stack(moved).norm().item() == pytest.approx(0.01, rel=0.01)
        gradients[amp] = made.scaler.state_dict()
    assert norms["fp16"] == pytest.approx(norms["off"], rel=0.05) and norms["off"] > 0.1
    # Both steps were good, and the scaler has heard of both.
    assert gradients["fp16"]["_growth_tracker"] == 2 and gradients["off"] == {}


@pytest.mark.parametrize("procedure", ["end-to-end", "iterative", "two-step"])
def test_the_logged_norm_is_of_all_that_moves(bridge, procedure):
    """Otherwise the log of turn "both" shows the gradient of one side only."""
    made = bridge(f"--clip 1e9 --procedure {procedure}")
    for step in (0, 1):
        made.sums.zero_()
        step_of(made, step)
        norms = [p.grad.norm() for p in made.net.parameters() if p.grad is not None]
        assert made.sums[3].item() == pytest.approx(torch.stack(norms).norm().item(), rel=1e-5)


def test_a_loss_is_averaged_over_the_turns_that_have_it(bridge):
    """Otherwise the log shows a half, or twice, of a loss that not all turns have."""
    counts = {}
    for flags in ("--procedure iterative", "--procedure end-to-end", "--loss rec"):
        made = bridge(flags)
        for step in (0, 1):
            step_of(made, step)
        counts[flags] = made.counts.int().tolist()
    assert list(counts.values()) == [[1, 2, 1, 2], [2, 2, 2, 2], [1, 1, 1, 2]]


@pytest.mark.parametrize("kind", ["translator", "bridge", "mlp"])
def test_a_step_has_no_gradient_of_the_one_before(learner, bridge, monkeypatch, kind):
    """Otherwise gradients add up over the run: a momentum that nobody asked for."""
    made = (bridge if kind == "bridge" else learner)("--lr 1e-8 --clip 1e9")
    if kind == "mlp":
        norms, real = [], torch.nn.utils.clip_grad_norm_
        monkeypatch.setattr(
            torch.nn.utils, "clip_grad_norm_", lambda *a: norms.append(real(*a).item())
        )
        batch = runs.draw_batch(made.data, "text->image", 0, made.args)
        monkeypatch.setattr(baselines, "draw_batch", lambda *args: batch)
        run = SimpleNamespace(args=made.args, translators={"text->image": made.net}, device=CPU)
        baselines.fit_mlp(run, made.data, "text->image", made.net.net, AveragedModel(made.net.net))
    # The same batch, by weights that stand still: the same gradient.
    else:
        made.args.procedure, made.args.lr_modality = "end-to-end", 1e-8
        norms = []
        for _ in range(3):
            made.sums.zero_()
            step_of(made, 0)
            norms.append(made.sums[3].item())
    assert max(norms) == pytest.approx(min(norms), rel=0.02)


@pytest.mark.parametrize("kind, steps", [("translator", (0, 1, 2, 40)), ("bridge", (0, 1, 2, 3))])
def test_the_average_follows_every_step(learner, bridge, kind, steps):
    """Otherwise it lags a step behind, misses the turns of one side, or has another decay."""
    made = (learner if kind == "translator" else bridge)("--ema 0.75")
    average = made.ema.module.state_dict()
    for step in steps:
        before = flat(average)
        step_of(made, step)
        now = dict(made.net.named_parameters())
        for name, parameter in now.items():
            old = before[f" {name}"]
            decay = min(0.75, (1 + step) / (10 + step)) if kind == "translator" else 0.75
            expected = parameter if step == 0 else decay * old + (1 - decay) * parameter
            assert torch.allclose(average[name], expected, rtol=1e-5, atol=1e-6)
        assert all(torch.equal(average[k], v) for k, v in made.net.named_buffers())


@pytest.mark.parametrize("kind", ["translator", "bridge"])
def test_a_learner_comes_back_whole(learner, bridge, kind):
    """Otherwise --resume forgets an optimiser, the average, or the scaler's factor."""
    make = learner if kind == "translator" else bridge
    more = "--procedure end-to-end" if kind == "bridge" else ""
    old, new = (make(f"--amp fp16 {more}") for _ in "ab")
    for step in (0, 1, 2):
        step_of(old, step)
    old.scaler.load_state_dict({**old.scaler.state_dict(), "scale": 128.0})
    step_of(new, 5)
    state = {k: v for k, v in old.state().items() if k != "gamma"}
    assert len(differ(flat(state), flat({k: new.state()[k] for k in state}))) > 20
    new.load(copy.deepcopy(old.state()))
    assert not differ(flat(state), flat({k: new.state()[k] for k in state}))
    # Both go on in the same way.
    for made in (old, new):
        torch.manual_seed(4)
        step_of(made, 3)
    assert not differ(flat(old.state()), flat(new.state()))


def test_each_side_has_its_own_rate_and_its_own_turn(bridge, monkeypatch):
    """Otherwise the denoiser moves at the encoders' rate, or in their turn."""
    made, asked, real = bridge("--ratio 2 --cosine --steps 40"), [], train_bridge.update
    note = lambda made, side, rate: asked.append((side, rate)) or real(made, side, rate)
    monkeypatch.setattr(train_bridge, "update", note)
    for step, side in enumerate(["modality", "bridge", "bridge", "modality"]):
        before = flat(dict(made.net.named_parameters()))
        step_of(made, step)
        changed = differ(before, flat(dict(made.net.named_parameters())))
        assert changed and all(name.startswith(" net.") == (side == "bridge") for name in changed)
        full = {"bridge": 1e-3, "modality": 3e-3}[side]
        assert asked.pop() == (side, pytest.approx(full * runs.warmup_cosine(step, 40)))
    assert not asked


def test_the_translator_follows_the_curve_of_its_rate(learner, bridge):
    """Otherwise --cosine, or --weight-decay, is printed and not used."""
    made = learner("--cosine --steps 40 --weight-decay 0.125")
    for step in (0, 30):
        step_of(made, step)
        (group,) = made.optimizer.param_groups
        assert group["lr"] == pytest.approx(3e-3 * runs.warmup_cosine(step, 40))
    sides = bridge("--weight-decay 0.125").optimizers.values()
    groups = [group, *(optimizer.param_groups[0] for optimizer in sides)]
    assert [group["weight_decay"] for group in groups] == 3 * [0.125]


def test_units_are_measured_side_by_side(bridge):
    """Otherwise y is scaled by the mean and the size of x."""
    made = bridge()
    y, x = made.pairs.of(np.arange(len(made.pairs.x)))
    assert made.net.y_mean.item() == pytest.approx(y.mean(), abs=1e-5)
    assert made.net.x_scale.item() == pytest.approx(1 / x.std(), rel=1e-5)


# -- weights without a part in the loss


def test_lam1_zero_is_refused_where_it_leaves_M_random(flags):
    """Otherwise "joint" ends with z_hat = c M of a random M."""
    with pytest.raises(RunError, match=re.escape("--lam1 0 leaves M untrained")):
        train.train(train.parse(flags("--lam1 0 --objective joint", "never")))
    for objective in ("ridge", "residual"):
        args = train.parse(flags(f"--lam1 0 --objective {objective}"))
        train.fit_to_data(args, train.FLAGS, 540, CPU)
        train.check_method(args)


@pytest.mark.parametrize("objective", ["residual", "joint"])
def test_processes_average_what_has_a_gradient(learner, monkeypatch, objective):
    """Otherwise torchrun stops at a weight that has no part in the loss: None has no shape."""
    made, sent = learner("--lam1 0 --objective residual"), []
    if objective == "joint":  # which the command line refuses
        made = learner("--objective joint")
        made.args.lam1 = 0.0
    monkeypatch.setattr(train, "average_gradients", lambda p, world: sent.extend(p))
    batch = runs.draw_batch(made.data, made.direction, 0, made.args)
    train.train_step(made, batch, 0, made.args, CPU, world=2)
    assert all(p.grad is not None for p in sent)
    assert {id(p) for p in made.net.net.parameters()} == {id(p) for p in sent}


# -- each row, each step, each direction draws for itself


def test_every_row_has_its_own_noise(learner, bridge):
    """Otherwise a batch has one noise, one time, or one coin for all of its rows."""
    made, other = learner("--p 0.5"), bridge("--p-T 0.5")
    c, z, noise = runs.draw_batch(made.data, "text->image", 0, made.args)
    y, x, bridge_noise = train_bridge.draw_batch(other, 0)
    for rows in (c, z, noise.eps, y, x, bridge_noise.eps.flatten(1)):
        assert len(torch.unique(rows, dim=0)) > 0.8 * len(rows)
    assert len(noise.t.unique()) > 13 and 8 < noise.keep.sum() < 24
    at_T = (bridge_noise.t == 1).sum()
    assert 2 < at_T < 14 and len(bridge_noise.t.unique()) == 17 - at_T


def test_every_sample_has_its_own_start(learner, bridge):
    """Otherwise equal conditions get equal answers, and the mean of K samples is one sample."""
    net, other = learner().net, bridge().net
    one = torch.zeros(1, 7)
    starts = []
    net.ddim_sample = lambda c, start, *rest: starts.append(start) or start
    net.sample(one.expand(5, 7), K=3)
    assert len(torch.unique(starts[0], dim=0)) == 15
    x_hat, _ = other.sample(one.expand(5, 7), 3)
    assert len(torch.unique(x_hat, dim=0)) == 5


def test_a_dropped_condition_is_dropped_in_its_own_row(learner):
    """Otherwise a mask is broadcast over the wrong axis; B = h1, so that no shape would tell."""
    net = learner().net.net
    torch.nn.init.normal_(net.phi)
    c, z_t, t = torch.randn(7, 7), torch.randn(7, 11), torch.arange(1, 8)
    keep = torch.tensor([1, 0, 1, 1, 0, 0, 1]).bool()
    rows = [net(z_t[i : i + 1], t[i : i + 1], c[i : i + 1], keep[i : i + 1]) for i in range(7)]
    assert torch.allclose(net(z_t, t, c, keep), torch.cat(rows), atol=1e-5)
    kept, dropped = net(z_t, t, c), net(z_t, t, net.phi.expand(7, 7))
    expected = torch.where(keep[:, None], kept, dropped)
    assert torch.allclose(net(z_t, t, c, keep), expected, atol=1e-5)


def test_directions_steps_and_seeds_share_no_draw(learner, bridge):
    """Otherwise both directions, or two runs, learn from the same pairs in the same order."""
    for make, draw in (
        (learner, lambda made, step: runs.draw_batch(made.data, made.direction, step, made.args)),
        (bridge, lambda made, step: train_bridge.draw_batch(made, step)),
    ):
        texts = []
        for direction in DIRECTIONS:
            for seed in (0, 1):
                made = make(f"--seed {seed}", direction)
                batches = [draw(made, step)[DIRECTIONS.index(direction)] for step in (0, 1)]
                texts += [batch.numpy().tobytes() for batch in batches]
        assert len(set(texts)) == 8


def test_every_step_of_the_loop_is_another(flags, monkeypatch):
    """Otherwise one batch, or one mask of dropout, holds for the whole run."""
    seeds, batches, steps, real = [], set(), [], train.train_step

    def note(learner, batch, step, *rest):
        seeds.append(torch.initial_seed())
        batches.add(batch[0].numpy().tobytes())
        steps.append(step)
        real(learner, batch, step, *rest)

    monkeypatch.setattr(train, "train_step", note)
    monkeypatch.setattr(train, "draw_losses", lambda *args: None)
    train.train(train.parse(flags(f"{TINY} --steps 6 --gamma 1 --dropout 0.5", "dropout")))
    assert steps == [*range(6)] * 2  # one direction after the other, a round at a time
    assert len(seeds) == len(batches) == 12 and len(set(seeds)) == 6


# -- scores of samples


def test_a_sample_does_not_meet_its_own_truth_in_1_nna(monkeypatch):
    """Otherwise 1-NNA is 0 for a good sampler: each sample stands beside its own truth."""
    rng = np.random.default_rng(0)
    truth = -torch.ones(16, 8, 8, 8)
    for solid, (i, j, k) in zip(truth, rng.integers(0, 4, (16, 3)), strict=True):
        solid[i : i + 3, j : j + 4, k : k + 2] = 1
    test_set = bridge_scores.BridgeTestSet.__new__(bridge_scores.BridgeTestSet)
    test_set.truth, test_set.N, met = truth, len(truth), []
    real = bridge_scores.metrics.chamfer
    note = lambda a, b: met.append((a, b)) or real(a, b)
    monkeypatch.setattr(bridge_scores.metrics, "chamfer", note)
    # A perfect sampler: its shapes are true ones, and those that it meets are others.
    found = test_set.score_volumes(truth)
    assert found["iou"] == 1 and found["one_nna"] > 0.15
    made, true = (truth[k::2].flatten(1) > 0 for k in (0, 1))
    pairs = [tuple(side.flatten(1) for side in both) for both in met]
    for a, b in ((made, made), (made, true), (true, true)):
        assert any(torch.equal(a, one) and torch.equal(b, other) for one, other in pairs)
