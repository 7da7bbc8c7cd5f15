"""
pictures.py
"""

import csv
import itertools
import os
import textwrap

import numpy as np
import torch
import torch.nn.functional as fn
from matplotlib.figure import Figure
from scipy.ndimage import binary_erosion, gaussian_filter

import metrics
from bridge_networks import kind_of
from latents import DIRECTIONS
from runs import cpu_randn


def save_figure(fig, folder, name):
    """fig -> folder/name.png, and a line that says so."""
    path = os.path.join(folder, name.replace(" ", "-") + ".png")
    fig.savefig(path, dpi=110, bbox_inches="tight")
    print(f"saved {path}")


def show_image(ax, image, title="", colour=None):
    """image: a PIL image, or floats in [0, 1], (H, W) or (H, W, 3)."""
    pixels = np.asarray(image)
    ax.imshow(pixels, cmap="gray", vmin=0, vmax=255 if pixels.dtype == np.uint8 else 1)
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=7)
    for side in ax.spines.values():
        side.set(visible=colour is not None, color=colour, linewidth=2)


def write_caption(ax, caption):
    ax.axis("off")
    style = dict(ha="right", va="center", fontsize=8)
    ax.text(1.0, 0.5, textwrap.fill(caption, 26), **style, parse_math=False)  # "$" is a dollar


def picture_grid(lines, columns, size):
    fig = Figure(figsize=(2 + size * columns, size * lines + 0.3))
    return fig, fig.subplots(lines, columns, squeeze=False)


def curves(evaluation):
    """Validation cosine against gamma, omega, DDIM steps and K, the others at the run's values."""
    run, a, rows = evaluation.run, evaluation.run.args, evaluation.validation.full
    fig = Figure(figsize=(14, 3.3), layout="constrained")
    axes = fig.subplots(1, 4, sharey=True)
    sweeps = {
        "omega": (0, 0.5, 1, 2, 3, 5),
        "steps": (1, 2, 5, 10, 20),
        "K": (1, 2, 4, 8, 16, 32),
    }
    for direction in DIRECTIONS:
        c, z = evaluation.validation.of(direction, rows[:: -(-len(rows) // 300)])
        draw_gammas(axes[0], run, direction, c, z)
        for ax, (name, values) in zip(axes[1:], sweeps.items(), strict=True):
            y = [metrics.cosine(run.translate(direction, c, **{name: v}), z) for v in values]
            ax.plot(values, y, "o-", ms=3)
    axes[0].axvline(1, color="grey", lw=0.8, ls=":", label="gamma = 1 (MT)")
    axes[0].set(xscale="symlog", xlim=(0, None), xlabel="gamma (dots: auto)")
    axes[0].set(ylabel="cosine, validation")
    axes[0].legend(frameon=False, fontsize=8)
    axes[1].set(xlabel=f"omega (this run: {a.omega:g}; MT: 5)")
    axes[2].set(xscale="log", xlabel=f"DDIM steps (this run: {a.ddim_steps})")
    axes[3].set(xscale="log", xlabel=f"K samples (this run: {a.K})")
    evaluation.figure(fig, "curves")


def draw_gammas(ax, run, direction, c, z):
    cM, F = run.terms(direction, c)
    scale, auto = run.translators[direction].z_scale.cpu(), run.gamma[direction]
    gammas = sorted([0, *np.geomspace(0.1, 300, 60), auto])
    cosines = [metrics.cosine((cM + g * F) / scale, z) for g in gammas]
    line = ax.plot(gammas, cosines, label=direction)[0]
    ax.plot(auto, cosines[gammas.index(auto)], "o", color=line.get_color())


def retrieval(evaluation, queries=8, k=5):
    """MT Fig. 3b: captions and the five images nearest to their translations; green is right."""
    if not evaluation.has_images():
        return print("\nretrieval: skipped, the run knows latents and no images")
    exam, base = evaluation.test_set("text->image"), evaluation.baselines["text->image"].answers
    asked = sorted(exam.right)[:: max(1, len(exam.right) // queries)][:queries]
    methods = {"ours": lambda c: evaluation.run.translate("text->image", c)}
    methods |= {name: base[name] for name in ("ridge", "identity") if name in base}
    pool, k = fn.normalize(exam.z[exam.pool]), min(k, len(exam.pool))
    tops = [(fn.normalize(f(exam.c[asked])) @ pool.T).topk(k).indices for f in methods.values()]
    fig, axes = picture_grid(len(asked), 1 + k * len(methods), 0.8)
    for line, query, found in zip(axes, asked, torch.cat(tops, 1).tolist(), strict=True):
        write_caption(line[0], evaluation.test.captions[int(exam.queries[query])])
        for ax, place in zip(line[1:], found, strict=True):
            image = evaluation.test.images[int(exam.gallery[exam.pool[place]])]
            show_image(ax, image, colour="limegreen" if place in exam.right[query] else "lightgrey")
    for ax, name in zip(axes[0, 1::k], methods, strict=True):
        ax.set_title(name, fontsize=8, loc="left")
    axes[0, 0].set_title(f"top {k} of {len(exam.pool)}", fontsize=8)
    evaluation.figure(fig, evaluation.label("retrieval"))


NO_DECODER = "this image encoder has no decoder: pca has one, --karlo is one for CLIP ViT-L/14"


def pictures(evaluation):
    """MT Fig. 3a: held-out captions drawn as images; then bare names, which leave the face open."""
    if not evaluation.decode:
        return print(f"\npictures: skipped, {NO_DECODER}")
    draw_pictures(evaluation, evaluation.label("text-to-image"), evaluation.latents.full)
    if len(evaluation.latents.bare):
        draw_pictures(evaluation, evaluation.label("text-to-image-bare"), evaluation.latents.bare)


def draw_pictures(evaluation, file, rows, lines=8, samples=5):
    run, net, test = evaluation.run, evaluation.run.translators["text->image"], evaluation.test
    rows = rows[np.random.default_rng(3).permutation(len(rows))[:lines]]
    c, z = evaluation.latents.of("text->image", rows)
    how = dict(steps=max(20, run.args.ddim_steps), omega=run.args.omega, randn=cpu_randn(0))
    columns = {"true, decoded": z, "ridge": evaluation.baselines["text->image"].answers["ridge"](c)}
    # Eq. 5 with a normalised F gives z_hat a direction and no length: the samples' mean lends its
    length = net.sample(c.to(run.device), K=run.args.K, **how).cpu().norm(dim=1, keepdim=True)
    columns["ours, z_hat"] = fn.normalize(run.translate("text->image", c)) * length
    for n in range(samples):
        columns[f"sample {n + 1}"] = net.sample(c.to(run.device), **how).cpu()
    drawn = {name: evaluation.decode(x) for name, x in columns.items()}
    fig, axes = picture_grid(len(rows), len(columns) + 2, 1.0)
    for n, (line, (i, j)) in enumerate(
        zip(axes, evaluation.latents.pairs[rows].tolist(), strict=True)
    ):
        write_caption(line[0], test.captions[j])
        show_image(line[1], test.images[i], "" if n else "true")
        for ax, (name, images) in zip(line[2:], drawn.items(), strict=True):
            show_image(ax, images[n], "" if n else name)
    evaluation.figure(fig, file)


def item_image(x):
    """A scaled item as (H, W) or (H, W, 3) in [0, 1]: views in a row, voxels as a lit solid."""
    kind, x = kind_of(tuple(x.shape)), (x.cpu().float().clamp(-1, 1) + 1) / 2
    if kind == "volume":
        return depth_map(x.numpy() > 0.5)
    if kind == "vector":
        return x[None].numpy()
    x = torch.cat(list(x), 2) if kind == "views" else x
    return x.permute(1, 2, 0).squeeze(2).numpy()


def depth_map(solid, size=64):
    """(size, size) in [0, 1] of voxels (D, H, W) bool, first axis down, seen from above, aslant."""
    solid = np.pad(solid, 1).repeat(2, 0).repeat(2, 1).repeat(2, 2)  # 0.7 pixels each: no holes
    skin = solid & ~binary_erosion(solid)
    n = np.stack(np.gradient(-gaussian_filter(solid.astype(np.float32), 2)))[:, skin]  # outwards
    n /= np.linalg.norm(n, axis=0) + 1e-6
    k, i, j = (np.argwhere(skin) - np.array(solid.shape) / 2).T * size * 0.75 / max(solid.shape)
    (c, d), (s, t) = np.cos([0.5, 0.45]), np.sin([0.5, 0.45])  # turned by one angle, then tipped
    across, away = c * j + s * i, c * i - s * j
    order = np.argsort(d * away - t * k)  # the nearest is drawn last
    at = [
        np.rint(v + size / 2).astype(int).clip(0, size - 1)[order]
        for v in (d * k + t * away, across)
    ]
    image = np.zeros((size, size), np.float32)
    image[tuple(at)] = (0.5 + np.array([-0.4, -0.3, 0.2]) @ n).clip(0.15, 1)[order]
    return image


def draw_columns(evaluation, q, columns, file):
    """One line a pair, one column for each of {title: scaled items (N, ...)}."""
    fig, axes = picture_grid(q.N, len(columns), 1.1)
    for line, (name, items) in zip(axes.T, columns.items(), strict=True):
        for n, (ax, item) in enumerate(zip(line, items, strict=True)):
            show_image(ax, item_image(item), "" if n else name)
            ax.set_aspect(
                "auto" if kind_of(item.shape) == "vector" or "E_" in name[:8] else "equal"
            )
    evaluation.figure(fig, file)


def draw_trade_off(evaluation, rows, marks, panels, samplers):
    """Left the distance to the truth, of samples and of means of 4; right that of the two sets."""
    fig = Figure(figsize=(11, 4), layout="constrained")
    for ax, metric in zip(fig.subplots(1, 2), panels, strict=True):
        tails = {"": "o-", "_mean4": "s--"} if metric == panels[0] else {"": "o-"}
        for (k, name), tail in itertools.product(enumerate(samplers), tails):
            mine = [
                r for r in rows if (r["method"], r["metric"]) == (f"ours, {name}", metric + tail)
            ]
            if mine:
                at = [[r[c] for r in mine] for c in ("nfe", "value")]
                label = name + (", mean of 4" if tail else "")
                ax.plot(*at, tails[tail], ms=3, c=f"C{k}", label=label)
        ax.plot(1, marks["regressor"][metric], "k*", ms=9, label="regressor")
        ax.axhline(marks["ceiling"][metric], c="grey", ls=":", label="ceiling: D_x(E_x(x))")
        ax.set(xscale="log", xlabel="network evaluations (NFE)", ylabel=metric)
    fig.axes[0].legend(frameon=False, fontsize=7)
    evaluation.figure(fig, "trade-off")


LABELS = {
    "L_ddim": "L_ddim, mean square (MT Eq. 2)",
    "L_recon": "L_recon, mean |z - z_hat| (MT Eq. 8)",
    "L_bridge": "L_bridge, weighted by 1 / c_out^2",
    "L_pred": "L_pred (or L_rec), mean square",
    "L_infoNCE": "L_infoNCE, nats",
}


def draw_losses(log, path, names):
    """log.csv -> loss.png: a panel a loss, a line a direction."""
    with open(log) as f:
        rows = list(csv.DictReader(f))
    names = [name for name in names if name in LABELS]
    fig = Figure(figsize=(4.5 * len(names), 3.2), layout="constrained")
    axes = fig.subplots(1, len(names), squeeze=False)[0]
    for ax, name in zip(axes, names, strict=True):
        for direction in dict.fromkeys(row["direction"] for row in rows):
            mine = [row for row in rows if row["direction"] == direction]
            steps = [int(row["step"]) for row in mine]
            ax.plot(steps, [float(row[name]) for row in mine], label=direction)
        ax.set(xlabel="step", ylabel=LABELS[name], ylim=(0, None))
        ax.legend(frameon=False)
    fig.savefig(path, dpi=120)
