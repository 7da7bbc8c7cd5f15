"""
Tables and figures of LD: random weights, tiny pairs, every number made a second way.

Of evaluate_bridge.py, bridge_scores.py, tables/lddbm.py and reproduce.py."""

import itertools
import json
import os
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as fn
from PIL import Image

import bridge_scores
import checkpoints
import evaluate
import evaluate_bridge
import glyph_rooms
import glyphs
import metrics
import pictures
import reproduce
import runs
import train_bridge
from bridge_scores import BridgeTestSet
from errors import RunError
from evaluate_bridge import BridgeEvaluation
from latents import DIRECTIONS, Latents
from runs import BridgeRun
from tables import lddbm

SMALL = "--width 16 --heads 2 --layers 1 --tokens 4 --dim 8 --conv 16 --steps 6".split()
CPU = torch.device("cpu")
ROOT = Path(evaluate_bridge.__file__).parent
THEORY = ("lemma1", "proposition1", "gamma", "sampling")


def pixels(n, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def solids(n):
    x = np.zeros((n, 32, 32, 32), bool)
    for i in range(n):
        x[i, 4 : 20 + i, 6 : 9 + i, 10 : 22 - i] = True
    return glyphs.Pairs(glyphs.silhouettes(x), x, "solids")


def rooms(n):
    x = np.random.default_rng(1).random((n, 32, 32, 8)) < 0.004
    return glyphs.Pairs(glyph_rooms.render(x), x, "rooms")


PAIRS = {  # of 13 pairs
    "glyph-sr": glyphs.Pairs(pixels(13, 1, 8, 8), pixels(13, 1, 32, 32, seed=1), "sr"),
    "glyph-edges": glyphs.Pairs(pixels(13, 1, 16, 16), pixels(13, 1, 16, 16, seed=1), "edges"),
    "glyph-solids": solids(5),
    "glyph-rooms": rooms(6),
    "nuscenes": glyphs.Pairs(
        pixels(5, 6, 3, 9, 16), pixels(5, 25, 25, 2, seed=1) > 200, "nuscenes"
    ),
}
rng = np.random.default_rng(2)
LATENTS = Latents(
    *(rng.normal(size=(40, n)).astype(np.float32) for n in (6, 9)),
    np.stack([np.arange(40)] * 2, 1), np.arange(40), np.zeros(0, int),
)  # fmt: skip


@pytest.fixture
def make(tmp_path, monkeypatch):
    """make(dataset) -> folder of a finished run with random weights."""
    monkeypatch.setattr(runs, "load_pairs", lambda name, *a, **k: PAIRS[name])
    both = {d: runs.LatentPairs(LATENTS, d) for d in DIRECTIONS}
    real = runs.bridge_pairs

    def fake(args, *rest):
        return both if args.dataset == "glyph-names" else real(args, *rest)

    monkeypatch.setattr(runs, "bridge_pairs", fake)

    def run(dataset, finished=True, seed=0):
        out = str(tmp_path / dataset)
        argv = ["--dataset", dataset, "--out", out, "--device", "cpu"]
        args, learners = train_bridge.parse([*argv, *SMALL]), {}
        for direction, pairs in runs.bridge_pairs(args, "train").items():
            torch.manual_seed(seed)
            y, x = pairs.of(np.arange(5))
            net = runs.make_bridge(args, y.shape[1:], x.shape[1:])
            net.fit(y, x)
            for p in net.parameters():
                torch.nn.init.normal_(p, std=0.4)  # samples leave [-1, 1]
            ema = {"n_averaged": torch.ones(())}
            ema |= {f"module.{k}": v for k, v in net.state_dict().items()}
            shapes = [list(net.y_shape), list(net.x_shape)]
            learners[direction] = {"net": net.state_dict(), "ema": ema, "shapes": shapes}
        (tmp_path / dataset).mkdir(exist_ok=True)
        kept = {"model": "bridge", "step": 6, "args": vars(args), "encoders": {}}
        kept |= {"learners": learners, "finished": finished}
        checkpoints.save_checkpoint(out + "/model.pt", kept)
        return out

    return run


def rows_of(folder, file="bridge.json"):
    with open(f"{folder}/{file}") as f:
        return json.load(f)["rows"]


def value(rows, method, metric, seed=0):
    (found,) = [r for r in rows if (r["method"], r["metric"], r["seed"]) == (method, metric, seed)]
    return found["value"]


def psnr(a, b):
    """Of arrays in [-1, 1], without metrics.py."""
    return np.mean([10 * np.log10(4 / np.mean((p - q) ** 2)) for p, q in zip(a, b, strict=True)])


def test_quality_of_images_is_what_it_says(make):
    """A row of the table is of other pairs, another sampler, other noise or unclamped images."""
    folder = make("glyph-sr")
    args = evaluate_bridge.parse([folder, "--limit", "7", "--nfe", "3", "--seeds", "2"])
    evaluation = BridgeEvaluation(BridgeRun(folder, CPU), args)
    evaluation.runs = {"ours": evaluation.run, "basic": evaluation.run}
    evaluate_bridge.quality(evaluation)
    rows, net = rows_of(folder), evaluation.run.bridges["y->x"]
    chosen = np.sort(np.random.default_rng(0).permutation(13)[:7])
    y, x = (torch.from_numpy(a) for a in PAIRS["glyph-sr"].of(chosen))
    true = x.numpy() / 127.5 - 1

    def draw(seed, n=3):
        return net.sample(y, n, randn=runs.cpu_randn(seed))[0].clamp(-1, 1)

    for seed in (0, 1):
        assert value(rows, "ours", "psnr", seed) == pytest.approx(psnr(draw(seed).numpy(), true))
    eight = torch.stack([draw(s) for s in range(8)])
    assert value(rows, "ours", "psnr_mean8") == pytest.approx(psnr(eight.mean(0).numpy(), true))
    assert value(rows, "ours", "diversity") == pytest.approx(eight.std(0).mean().item(), rel=1e-5)
    assert value(rows, "regressor", "psnr") == pytest.approx(psnr(draw(0, 1).numpy(), true))
    ceiling = net.reconstruct(x).clamp(-1, 1).numpy()
    assert value(rows, "ceiling", "psnr") == pytest.approx(psnr(ceiling, true))
    cubic = fn.interpolate(y / 127.5 - 1, (32, 32), mode="bicubic").clamp(-1, 1).numpy()
    assert value(rows, "classical", "psnr") == pytest.approx(psnr(cubic, true))
    z_T, z_0 = (fn.normalize(z.detach().flatten(1)) for z in net.latents(y, x))
    right = ((z_T @ z_0.T).argmax(1) == torch.arange(7)).double().mean().item()
    assert value(rows, "ours", "r1") == pytest.approx(right)
    assert {r["method"]: r["nfe"] for r in rows} == dict(
        ours=3, basic=3, regressor=1, ceiling=0, classical=0
    )
    keys = {"data", "method", "metric", "value", "nfe", "seconds_per_sample", "seed"}
    assert all(set(r) == keys and r["data"] == "glyph-sr" for r in rows)


def test_rows_replace_their_own_kind(make):
    """A second look doubles the rows, or wipes out those of the trade-off or of Basic."""
    folder = make("glyph-sr")
    old = dict.fromkeys(("nfe", "seconds_per_sample", "seed"), 0) | {"value": -1.0}
    old |= {"data": "glyph-sr", "metric": "psnr"}
    kept, gone = old | {"method": "basic"}, old | {"method": "ours", "seed": 9}
    with open(folder + "/bridge.json", "w") as f:
        json.dump({"rows": [kept, gone]}, f)
    looks = []
    for _ in range(2):
        evaluate_bridge.main([folder, "--first-look", "--limit", "6", "--task", "quality"])
        looks.append([(r["method"], r["metric"], r["seed"]) for r in rows_of(folder)])
    assert kept in rows_of(folder) and gone not in rows_of(folder)
    assert sorted(looks[0]) == sorted(looks[1]) and len(set(looks[0])) == len(looks[0])


def test_solids_and_their_hull(make):
    """The truth does not get full marks, or the visual hull is not the one of these views."""
    test_set = BridgeTestSet(BridgeRun(make("glyph-solids"), CPU), 5)
    truth = test_set.truth
    assert test_set.kind == "volume" and test_set.score(truth)["iou"] == 1.0
    other = truth[[1, 1, 3, 3, 4]]  # samples of pairs 0 and 2 copy the truths of 1 and 3
    assert test_set.score(other)["one_nna"] == 0.0
    assert test_set.score(-torch.ones_like(truth))["one_nna"] == 1.0  # empty: nobody's neighbours
    hull, _ = test_set.predict(bridge_scores.classical(test_set))
    expected = metrics.iou(torch.from_numpy(glyphs.visual_hull(test_set.y.numpy())), test_set.x)
    assert test_set.score(hull)["iou"] == pytest.approx(expected) and expected > 0.5


def test_rooms_and_their_hull(make, capsys):
    """The table has another hull beside ours, or 1-NNA is not that of these volumes."""
    folder = make("glyph-rooms")
    evaluate_bridge.main(
        [folder, "--limit", "6", "--nfe", "2", "--seeds", "1", "--task", "quality"]
    )
    rows, (y, x) = rows_of(folder), PAIRS["glyph-rooms"].of(np.arange(6))
    hull = glyph_rooms.visual_hull(y)
    expected = ((hull & x).sum((1, 2, 3)) / (hull | x).sum((1, 2, 3))).mean()
    assert value(rows, "classical", "iou") == pytest.approx(expected) and 0.01 < expected < 0.9
    made, true = torch.from_numpy(hull[::2]), torch.from_numpy(x[1::2])
    pairs = (made, made), (made, true), (true, true)
    expected = metrics.one_nna(*(metrics.chamfer(*pair) for pair in pairs))
    assert value(rows, "classical", "one_nna") == pytest.approx(expected)
    assert value(rows, "ceiling", "iou") <= 1 and "SurroundOcc" not in capsys.readouterr().out


def test_numbers_of_others_come_with_their_warning(make, capsys):
    """SurroundOcc's IoU of another split stands beside ours as if the two could be compared."""
    folder = make("nuscenes")
    evaluate_bridge.main(
        [folder, "--limit", "5", "--nfe", "2", "--seeds", "1", "--task", "quality"]
    )
    said = capsys.readouterr().out
    assert "for comparison only" in said and "0.315" in said and "other scenes" in said
    assert not [row for row in rows_of(folder) if row["method"] == "classical"]
    assert {"iou", "one_nna", "r1"} <= {row["metric"] for row in rows_of(folder)}


def test_a_room_is_seen_from_above(make):
    """Six views are a thin strip, the cameras behind stand above those in front, or a plan is
    turned, drawn from below, or from the side."""
    y, x = PAIRS["glyph-rooms"].of(np.arange(2))
    views = pictures.item_image(torch.from_numpy(y[0]) / 127.5 - 1)
    assert views.shape == (64, 96)
    expected = np.vstack([np.hstack(y[0, :3, 0]), np.hstack(y[0, 3:, 0])]) / 255
    assert np.allclose(views, expected, atol=1e-3)
    low, high = np.zeros((2, 32, 32, 8), bool)
    low[3, 20, 7] = high[3, 20, 0] = True
    plans = [pictures.item_image(torch.from_numpy(room) * 2.0 - 1) for room in (low, high)]
    assert all(np.argwhere(plan > 0).tolist() == [[3, 20]] for plan in plans)
    assert plans[0][3, 20] < plans[1][3, 20] == 1
    run = BridgeRun(make("glyph-rooms"), CPU)
    test_set, figures = BridgeTestSet(run, 2), []
    columns = {"source": test_set.bridge.scale_y(test_set.y), "truth": test_set.truth}
    evaluation = SimpleNamespace(figure=lambda fig, name: figures.append(fig))
    pictures.draw_columns(evaluation, test_set, columns, "samples")
    source, truth = (ax.get_position() for ax in figures[0].axes[:2])
    assert source.width == pytest.approx(1.5 * truth.width, rel=0.01)


@pytest.mark.parametrize(
    "flags", ["", "--no-cosine --amp off", "--dataset glyph-edges --data-space"]
)
def test_a_command_line_gives_the_arguments_back(flags):
    """A yardstick is trained with other settings than the run that it stands beside."""
    args = train_bridge.parse([*SMALL, *flags.split()])
    assert train_bridge.parse(lddbm.argv_of(args)) == args
    args.resume = True  # how the run was finished is no setting
    other = train_bridge.parse(lddbm.argv_of(args, loss="rec", w_nce=0.0, out="elsewhere"))
    changed = {k for k in vars(args) if getattr(args, k) != getattr(other, k)}
    assert changed == {"loss", "w_nce", "out", "resume"}


@pytest.mark.parametrize(
    "dataset, names", [("glyph-sr", ["basic"]), ("glyph-edges", ["basic", "data-space"])]
)
def test_the_companions(make, monkeypatch, capsys, dataset, names):
    """Basic is not two-step with L_rec alone, data space is trained where shapes differ, or a run
    that is there does not come into the table, or into a first look."""
    folder, trained = make(dataset), {}

    def learn(script, argv, device):
        args = script.parse(argv)
        trained[args.out] = args
        shutil.copytree(folder, args.out, ignore=lambda *_: names)

    monkeypatch.setattr(lddbm, "trained_run", learn)
    run = BridgeRun(folder, CPU)

    def runs_of(*flags):
        return list(BridgeEvaluation(run, evaluate_bridge.parse([folder, *flags])).runs)

    assert runs_of() == ["ours"] and f"python reproduce.py {folder}" in capsys.readouterr().out
    lddbm.train_companions(run)
    assert list(trained) == [f"{folder}/{name}" for name in names]
    assert runs_of() == ["ours", *names] and runs_of("--first-look") == ["ours"]
    basic = trained[f"{folder}/basic"]
    assert (basic.procedure, basic.loss, basic.w_nce, basic.width) == ("two-step", "rec", 0, 16)
    assert not basic.data_space and all(a.data_space for k, a in trained.items() if "data-" in k)


def test_latents_take_the_translators_test(make, tmp_path):
    """The two papers have different test sets, or the mean of 8 is one sample."""
    folder = make("glyph-names")
    beside = [dict(task="similarity", direction=d, method="ours", seed=0, pool=9, r1=0, r5=0, r10=0)
              | dict(cosine=0.5, centred_cosine=0.25, unrelated_cosine=0.125)
              for d in DIRECTIONS]  # fmt: skip
    other = tmp_path / "translator"
    other.mkdir()
    (other / "translation.json").write_text(json.dumps({"rows": beside}))
    flags = ["--task", "quality", "--first-look", "--nfe", "2", "--beside", str(other)]
    evaluate_bridge.main([folder, *flags])
    rows = rows_of(folder, "translation.json")
    assert {r["method"] for r in rows} >= {"bridge", "bridge, one sample", "translator", "ridge"}
    run, d = BridgeRun(folder, CPU), "image->text"
    net, c = run.bridges[d], torch.from_numpy(LATENTS.image)
    randn = runs.cpu_randn(0)
    draws = [net.unscale(net.sample(c, 2, randn=randn)[0]) for _ in range(8)]
    for name, z in (("bridge", torch.stack(draws).mean(0)), ("bridge, one sample", draws[0])):
        (mine,) = [r for r in rows if r["direction"] == d and r["method"] == name]
        expected = metrics.cosine(z, torch.from_numpy(LATENTS.text))
        assert mine["cosine"] == pytest.approx(expected, abs=1e-5)
        metric = "two_way_mean8" if name == "bridge" else "two_way"
        found = [r for r in rows_of(folder) if r["data"].endswith(d) and r["metric"] == metric]
        assert found[0]["method"] == "ours"
        two_way = metrics.two_way(z, torch.from_numpy(LATENTS.text))
        assert found[0]["value"] == pytest.approx(two_way, abs=1e-3)


def test_the_trade_off_knows_its_evaluations(make, monkeypatch, capsys):
    """A sampler's points stand at other numbers of evaluations than it used."""
    folder = make("glyph-sr")
    monkeypatch.setattr(evaluate_bridge, "NFES", (1, 2, 10))
    monkeypatch.setattr(evaluate_bridge, "HEUN_STEPS", (40,))
    evaluate_bridge.main([folder, "--task", "trade-off", "samples", "parts", "--limit", "8"])
    rows = [r for r in rows_of(folder) if r["metric"] == "psnr"]
    found = {
        m: [r["nfe"] for r in rows if r["method"] == f"ours, {m}"] for m in evaluate_bridge.SAMPLERS
    }
    assert found.pop("Heun") == [119]
    assert all(nfe == [1, 2, 10] for nfe in found.values()) and len(found) == 2
    net = BridgeRun(folder, CPU).bridges["y->x"]
    run = SimpleNamespace(bridges={"y->x": net}, device=CPU, pairs=lambda *a: PAIRS["glyph-sr"])
    test_set = BridgeTestSet(run, 4)
    x_hat, _ = net.sample(test_set.y, 10, eta=1.0, randn=runs.cpu_randn(0))
    expected = psnr(x_hat.clamp(-1, 1).numpy(), test_set.truth.numpy())
    (ours,) = [r["value"] for r in rows if r["method"] == "ours, DBIM eta 1" and r["nfe"] == 10]
    assert ours == pytest.approx(expected)
    assert "Heun takes" in capsys.readouterr().out
    for name in ("trade-off", "samples", "parts"):
        assert not_blank(f"{folder}/{name}.png")


def not_blank(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("L")).std() > 5


def test_the_nearest_voxels_are_seen():
    """Solids are drawn from behind, upside down, or with what is hidden."""
    high, low, near = np.zeros((3, 32, 32, 32), bool)
    high[2:6, 14:18, 14:18] = low[26:30, 14:18, 14:18] = near[2:6, 14:18, 4:8] = True

    def top(solid):
        return np.argwhere(pictures.depth_map(solid) > 0)[0].tolist()

    assert top(high) == [2, 14] and top(low) == [26, 14]
    assert 0 < pictures.depth_map(high).max() < pictures.depth_map(near).max() <= 1
    assert np.array_equal(pictures.depth_map(high | near), pictures.depth_map(near))
    for solid, (front, *_) in zip(PAIRS["glyph-solids"].x, PAIRS["glyph-solids"].y, strict=True):
        assert np.array_equal(pictures.depth_map(solid) > 0, front[0] > 0)


def test_an_ablation_says_where_the_order_differs(capsys):
    """A swapped pair is not named, or 1-NNA counts as better the lower it is, even below 0.5."""
    scores = {  # rec, pred, rec+nce, pred+nce; the poster: IoU .609 .643 .627 .664
        "iou": (0.5, 0.6, 0.7, 0.8),  # rec+nce before pred
        "one_nna": (0.9, 0.45, 0.4, 0.49),  # as the poster, by the distance from 0.5
    }
    variants = [variant.name for variant in lddbm.ABLATIONS["lddbm-losses"]]
    rows = [
        {"data": "glyph-solids", "method": v, "metric": m, "value": values[n] + 0.01 * s, "seed": s}
        for m, values in scores.items()
        for (n, v), s in itertools.product(enumerate(variants), (-1, 1))
    ]
    lddbm.print_ablation("lddbm-losses", rows)
    out = capsys.readouterr().out.splitlines()
    assert "iou: against the poster's order, rec+nce before pred" in out
    assert "one_nna: against the poster's order, nothing" in out
    assert any("0.800 +- 0.014 (0.664)" in line for line in out)


def test_scores_of_a_run_are_kept(make, tmp_path):
    """Otherwise a table is of a run that has been trained anew since, or asks for all again."""
    folder = tmp_path / "run"
    shutil.copytree(make("glyph-sr"), folder)
    run = BridgeRun(folder, CPU)
    test_set = BridgeTestSet(run, 6)
    first = lddbm.scores_of(run, test_set, 2)
    path = folder / "scores-6-2.json"
    assert json.loads(path.read_text()) == first
    path.write_text('{"psnr": 1.0}')
    assert lddbm.scores_of(run, test_set, 2) == {"psnr": 1.0}
    os.utime(folder / "model.pt", (2e9, 2e9))
    assert lddbm.scores_of(run, test_set, 2) == first


def test_reproduce_trains_every_cell_once(make, monkeypatch, tmp_path):
    """A variant is trained with another's flags, or a seed or a data set is left out."""
    monkeypatch.chdir(tmp_path)
    asked = []
    (tmp_path / "runs" / "lddbm").mkdir(parents=True)

    def learn(argv, device):
        asked.append(train_bridge.parse(argv))
        return BridgeRun(make(asked[-1].dataset), CPU)

    copies = []
    monkeypatch.setattr(lddbm, "trained", learn)
    monkeypatch.setattr(lddbm, "copy_at", lambda run, step: copies.append(step) or run)
    reproduce.main("lddbm-losses --seeds 2 --nfe 1 --limit 4".split())
    cells = [(a.dataset, a.loss, a.w_nce > 0, a.seed) for a in asked]
    sets = ("glyph-sr", "glyph-solids")
    assert sorted(cells) == sorted(itertools.product(sets, ("pred", "rec"), (True, False), (0, 1)))
    assert len({a.out for a in asked}) == len(asked)
    rows = rows_of("runs/lddbm", "lddbm-losses.json")
    # Scored on the way, too: of each cell a quarter, half and all of the updates of a side.
    assert {r["updates"] for r in rows} == {100, 200, 400, 250, 500, 1000}
    assert set(copies) == {100, 200, 250, 500}
    assert all(a.keep_every == a.steps // 4 for a in asked)
    for dataset in sets:
        assert os.path.getsize(f"runs/lddbm/lddbm-losses-{dataset}.png") > 10_000
    assert {r["metric"] for r in rows if r["data"] == "glyph-solids"} == {"iou", "one_nna", "r1"}
    flags = {v.name: v.flags for table in lddbm.ABLATIONS.values() for v in table}
    assert flags["two-step"] == "--procedure two-step" and flags["dit"] == "--design dit"
    ours = [a.out for a in asked if (a.loss, a.w_nce > 0) == ("pred", True)]
    asked.clear()
    copies.clear()
    reproduce.main("lddbm-training --seeds 2 --nfe 1 --limit 4".split())
    assert set(copies) == {100, 200, 400, 250, 500, 1000}  # turns: twice the steps, as many updates
    assert {a.out for a in asked if a.procedure == "end-to-end"} == set(ours)  # trained once
    steps = {(a.dataset, a.procedure): a.steps for a in asked}
    assert all(steps[d, "end-to-end"] * 2 == steps[d, "iterative"] for d in sets)


def test_wrong_commands_end_in_one_line(make):
    """A task of the other paper, or half a training, ends in a traceback or in a wrong table."""
    folder = make("glyph-sr")
    for argv in (["--task", "curves"], ["--on", "coco"], ["--nfe", "0"]):
        with pytest.raises(SystemExit):
            evaluate_bridge.parse([folder, *argv])
    with pytest.raises(SystemExit):
        evaluate_bridge.parse([])
    with pytest.raises(RunError, match="no such table; the tables are .*lddbm-speed"):
        reproduce.main(["lddbm-everything"])
    saved = checkpoints.load_checkpoint(folder + "/model.pt")
    saved["learners"]["y->x"]["shapes"][0][0] = 3
    checkpoints.save_checkpoint(folder + "/model.pt", saved)
    with pytest.raises(RunError, match="is of another network"):
        BridgeRun(folder, CPU)
    with pytest.raises(RunError, match="--resume"):
        BridgeRun(make("glyph-sr", finished=False), CPU)


def test_the_contents_can_be_typed(capsys):
    """A line of the list names a script that is gone, or a task or a table that there is not."""
    reproduce.main([])
    lines = capsys.readouterr().out.splitlines()
    commands = [line.partition("  python ")[2].split() for line in lines if "  python " in line]
    assert len(commands) > 20 and max(map(len, lines)) <= 110
    for script, *argv in commands:
        assert (ROOT / script).exists()
        if script == "evaluate_bridge.py":
            evaluate_bridge.parse(argv)
        if script == "evaluate.py":
            evaluate.parse(argv)
        if script == "reproduce.py" and not argv[0].startswith("runs/"):
            assert argv[0] in (*reproduce.SCRIPTS, *lddbm.ABLATIONS, "lddbm-speed")
    assert {f"theory/{name}.py" for name in THEORY} <= {script for script, *_ in commands}


def test_reproduce_makes_all_of_a_run(make, monkeypatch):
    """The command for everything forgets Basic or a figure, or makes what was not asked for."""
    folder, done = make("glyph-sr"), []
    monkeypatch.setattr(lddbm, "train_companions", lambda run: done.append("companions"))
    for name in evaluate_bridge.BRIDGE_TASKS:
        monkeypatch.setitem(
            evaluate_bridge.BRIDGE_TASKS, name, partial(lambda n, _: done.append(n), name)
        )
    reproduce.main([folder])
    assert done == ["companions", "quality", "trade-off", "samples", "tsne"]
    done.clear()
    reproduce.main([folder, "--task", "parts"])
    assert done == ["companions", "parts"]
