"""
pictures.py: the figures of both papers, drawn from a run.

    draw_losses      both   the losses of a run over its steps        RUN/loss.png
    retrieval        MT     captions, and the images that are found   RUN/retrieval.png
    drawn_captions   MT     images drawn from captions never seen     RUN/text-to-image*.png
    draw_captions    MT     captions of images, right and wrong       RUN/captioning.png
    curves           MT     cosine against gamma, omega, steps, K     RUN/curves.png
    draw_columns     LD     samples of a bridge beside the truth      RUN/samples.png, parts.png
    draw_trade_off   LD     quality against network evaluations       RUN/trade-off.png

retrieval, drawn_captions and curves are tasks of evaluate.py. They are given its `evaluation`: a
run, its test data and its baselines. The folder figures/ shows what comes out.

matplotlib's Figure is used without pyplot: it needs no display, and a figure that is not kept in
a list of open windows is freed when its function ends.

Readable at half a page: a figure is PAGE inches wide and all its letters have 10 points, so that on
a page of paper, 6.5 inches between the margins, they have 8. Colours are COLOURS, which people with
any of the usual kinds of colour blindness tell apart; lines differ in their style as well.
"""

import csv
import math
import os
import textwrap

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

import metrics
from baselines import nearest
from bridge_networks import kind_of
from latents import DIRECTIONS
from runs import cpu_randn
from safe_files import whole

# --------------------------------------------------------------------------------------------------
# What all figures share

PAGE = 8.0  # inches
# Okabe and Ito's, without their yellow, which is too light for lines: blue, orange, green, purple,
# light blue, amber, black, grey.
COLOURS = "#0072B2 #D55E00 #009E73 #CC79A7 #56B4E9 #E69F00 #000000 #999999".split()
STYLE = {
    "font.size": 10,
    "axes.titlesize": 10,
    "legend.fontsize": 10,
    "axes.prop_cycle": matplotlib.cycler(color=COLOURS),
}
# Whoever draws imports this file, so that all figures look alike.
matplotlib.rcParams.update(STYLE)


def save_figure(fig, folder, name):
    """fig -> folder/name.png, and a line that says so."""
    path = os.path.join(folder, name.replace(" ", "-") + ".png")
    # A kill or a full disk leaves the old picture or the new one, no half.
    with whole(path) as temporary:
        fig.savefig(temporary, dpi=110, bbox_inches="tight", format="png")
    print(f"saved {path}")


def show_image(ax, image, title="", colour=None):
    """image: a PIL image, or floats in [0, 1], (H, W) or (H, W, 3); colour: of a frame."""
    pixels = np.asarray(image)
    # Without vmin and vmax matplotlib stretches each image to full contrast.
    white = 255 if pixels.dtype == np.uint8 else 1
    drawn = ax.imshow(pixels, cmap="gray", vmin=0, vmax=white)
    ax.set(xticks=[], yticks=[])
    # Images are narrow: "ours, z_hat" takes two lines.
    ax.set_title(textwrap.fill(title, 9))
    for side in ax.spines.values():
        side.set(visible=colour is not None, color=colour, linewidth=2)
    return drawn  # movies.py puts the next image in its place


CAPTION = 1.9  # inches: 22 letters of 10 points


def write_caption(ax, caption):
    """A caption in the place of an image, wrapped."""
    ax.axis("off")
    # parse_math: a "$" in a caption is a dollar, not the start of a formula.
    style = dict(ha="right", va="center", parse_math=False)
    ax.text(1.0, 0.5, textwrap.fill(caption, 22), **style)


def picture_grid(lines, widths, captions=False):
    """(figure, axes (lines, columns)) for images that fill a page's width, but for an inch at most.

    widths: of each column, in units of a square image; captions: a column for them at the left."""
    left = CAPTION if captions else 0.0
    size = min(1.0, (PAGE - left) / sum(widths))
    inches = [size * width for width in widths]
    if captions:
        inches = [left, *inches]
    # Two lines of titles need half an inch.
    fig = Figure(figsize=(sum(inches), size * lines + 0.5), layout="constrained")
    fig.get_layout_engine().set(w_pad=0.03, h_pad=0.05, wspace=0, hspace=0)
    return fig, fig.subplots(lines, len(inches), squeeze=False, width_ratios=inches)


# --------------------------------------------------------------------------------------------------
# Training, both papers

LABELS = {
    "L_ddim": "L_ddim, mean square (MT Eq. 2)",
    "L_recon": "L_recon, mean |z - z_hat| (MT Eq. 8)",
    "L_bridge": "L_bridge, weighted by 1 / c_out^2",
    "L_pred": "L_pred (or L_rec), mean square",
    "L_infoNCE": "L_infoNCE, nats",
}


def draw_losses(log, path, names):
    """log.csv -> loss.png: a panel for each of `names` that has a label, a line a direction."""
    with open(log) as f:
        rows = list(csv.DictReader(f))
    names = [name for name in names if name in LABELS]  # "loss", a sum, has no panel
    directions = dict.fromkeys(row["direction"] for row in rows)  # each once, in order
    fig = Figure(figsize=(PAGE, 3.4), layout="constrained")
    axes = fig.subplots(1, len(names), squeeze=False)[0]
    for ax, name in zip(axes, names, strict=True):
        for direction in directions:
            mine = [row for row in rows if row["direction"] == direction]
            steps = [int(row["step"]) for row in mine]
            losses = [float(row[name]) for row in mine]
            ax.plot(steps, losses, label=direction)
        # From 0 up, or a loss that hardly falls would look as if it fell to nothing.
        ax.set(xlabel="step", ylabel=LABELS[name], ylim=(0, None))
        ax.legend(frameon=False)
    with whole(path) as temporary:
        fig.savefig(temporary, dpi=120, format="png")


# --------------------------------------------------------------------------------------------------
# MT: retrieved images


def retrieval(evaluation, queries=8, k=3):
    """MT Fig. 3b: captions, and the images nearest to their translations; framed blue: right."""
    if not evaluation.has_images():
        print("\nretrieval: skipped, the run knows latents and no images")
        return
    test_set = evaluation.test_set("text->image")
    # Eight captions, evenly spread over those whose image is in the pool.
    findable = sorted(test_set.right)
    shown = findable[:: max(1, len(findable) // queries)][:queries]
    c = test_set.c[shown]

    # For each method and each caption the k images of the pool that are nearest.
    run, pool = evaluation.run, test_set.z[test_set.pool]
    k = min(k, len(pool))
    z_hat = run.translate("text->image", c)
    found = {"ours": nearest(z_hat, pool, k)[1]}  # (lines, k) places in the pool
    # Nearest by the other translator as well, which says of each image what its caption may be.
    similarity = metrics.both_ways(c, pool, z_hat, run.translate("image->text", pool))
    found["ours, both ways"] = similarity.topk(k).indices
    baselines = evaluation.baselines["text->image"].answers
    for name in ("ridge", "identity"):
        if name in baselines:
            found[name] = nearest(baselines[name](c), pool, k)[1]
    places = torch.cat(list(found.values()), 1).tolist()

    fig, axes = picture_grid(len(shown), [1] * k * len(found), captions=True)
    for line, query, found_places in zip(axes, shown, places, strict=True):
        write_caption(line[0], evaluation.test.captions[int(test_set.queries[query])])
        for ax, place in zip(line[1:], found_places, strict=True):
            # From a place in the pool to a place in the gallery to a row of the images.
            image = evaluation.test.images[int(test_set.gallery[test_set.pool[place]])]
            right = place in test_set.right[query]
            show_image(ax, image, colour=COLOURS[0] if right else "lightgrey")
    # A method's name stands above the first of its k columns.
    for ax, name in zip(axes[0, 1::k], found, strict=True):
        ax.set_title(name, loc="left")
    axes[0, 0].set_title(f"top {k} of {len(pool)}", loc="right")
    evaluation.figure(fig, evaluation.label("retrieval"))


# --------------------------------------------------------------------------------------------------
# MT: images drawn from captions

NO_DECODER = "this image encoder has no decoder: pca has one, --karlo is one for CLIP ViT-L/14"


def drawn_captions(evaluation):
    """MT Fig. 3a: held-out captions, drawn; then bare names, which leave the typeface open."""
    if not evaluation.decode:
        print(f"\npictures: skipped, {NO_DECODER}")
        return
    latents = evaluation.latents
    draw_pictures(evaluation, evaluation.label("text-to-image"), latents.full)
    if len(latents.bare):
        draw_pictures(evaluation, evaluation.label("text-to-image-bare"), latents.bare)


def draw_pictures(evaluation, file, rows, lines=8, samples=4):
    """A line a caption: the true image, then decoded latents: the truth, ridge, ours, samples."""
    test = evaluation.test
    # A few captions, always the same ones.
    rows = rows[np.random.default_rng(3).permutation(len(rows))[:lines]]
    c, z = evaluation.latents.of("text->image", rows)
    drawn = {}
    for title, latents in answers_to_draw(evaluation, c, z, samples).items():
        drawn[title] = evaluation.decode(latents)

    fig, axes = picture_grid(len(rows), [1] * (len(drawn) + 1), captions=True)
    pairs = evaluation.latents.pairs[rows].tolist()
    # A line for each pair (image i, caption j); the first one has the titles, too.
    for n, (line, (i, j)) in enumerate(zip(axes, pairs, strict=True)):
        write_caption(line[0], test.captions[j])
        show_image(line[1], test.images[i], "true" if n == 0 else "")
        for ax, (title, images) in zip(line[2:], drawn.items(), strict=True):
            show_image(ax, images[n], title if n == 0 else "")
    evaluation.figure(fig, file)


def answers_to_draw(evaluation, c, z, samples):
    """{title of a column: raw image latents (n, h2)} for captions c (n, h1) and their images z."""
    run = evaluation.run
    net = run.translators["text->image"]
    # One DDIM step answers with the network's estimate at t = T, the mean of all right answers.
    # That is good for cosines and blurred as a picture: a sample is drawn in 20 steps.
    how = {
        "steps": max(20, run.args.ddim_steps),
        "omega": run.args.omega,
        "randn": cpu_randn(0),  # one generator for all columns: so each sample is another one
    }
    c_there = c.to(run.device)

    # What a perfect translator would draw. Where it differs from the true image, the decoder errs.
    columns = {"true, decoded": z}
    columns["ridge"] = evaluation.baselines["text->image"].answers["ridge"](c)

    columns["ours, z_hat"] = run.translate("text->image", c)

    # What a table of cosines cannot show: other noise, another answer to the same caption.
    for n in range(samples):
        columns[f"sample {n + 1}"] = net.sample(c_there, **how).cpu()
    return columns


# --------------------------------------------------------------------------------------------------
# MT: captions, for tables/captioning.py

KINDS = {"right": 1.0, "similar": 0.7, "confused": 0.4, "other": 0.0}  # ROUGE-L of at least
SHOWN = ("ours + CapDec", "ours + ClipCap", "caption of the nearest image")


def draw_captions(evaluation, images, captions, references, each=2):
    """MT Fig. 4: `each` images of each kind of caption by "ours + CapDec"; all go to a text file.

    images (N,); captions {method of SHOWN: N strings}; references: N lists of strings"""
    kinds = []
    for caption, texts in zip(captions["ours + CapDec"], references, strict=True):
        references_of = [metrics.caption_tokens(text) for text in texts]
        score = metrics.rouge_l([metrics.caption_tokens(caption)], [references_of])
        # The 1e-9 is for rounding: 7 of 10 may come out as 0.6999999.
        reached = [kind for kind, least in KINDS.items() if score >= least - 1e-9]
        kinds.append(reached[0])

    # Photos have file names, glyphs only numbers.
    name_of = getattr(evaluation.test.images, "name", str)
    path = evaluation.path("captions", ".txt")
    with whole(path) as temporary, open(temporary, "w", encoding="utf-8") as f:
        for n, i in enumerate(images.tolist()):
            lines = [f"{method}: {captions[method][n]}" for method in SHOWN]
            lines += [f"reference: {text}" for text in references[n]]
            print(f"image {name_of(i)}", *lines, sep="\n  ", file=f)

    # The first of each kind in a shuffled, but always the same order.
    order = np.random.default_rng(0).permutation(len(images)).tolist()
    chosen = []
    for kind in KINDS:
        chosen += [n for n in order if kinds[n] == kind][:each]
    fig = Figure(figsize=(PAGE, 0.95 * len(chosen)), layout="constrained")
    axes = fig.subplots(len(chosen), 2, squeeze=False, width_ratios=(1, 8))
    for (left, right), n in zip(axes, chosen, strict=True):
        show_image(left, evaluation.test.images[int(images[n])])
        # The share tells how common a kind is: two are shown, whether there are two or 200.
        share = kinds.count(kinds[n]) / len(kinds)
        lines = [f"{kinds[n].upper()}, {share:.0%} of {len(images)}"]
        lines += [f"{method}: {captions[method][n]}" for method in SHOWN]
        lines.append(f"reference: {references[n][0]}")
        right.axis("off")
        right.text(0, 0.5, "\n".join(lines), va="center", parse_math=False)
    evaluation.figure(fig, evaluation.label("captioning"))


# --------------------------------------------------------------------------------------------------
# MT: curves

SWEEPS = {
    "omega": (0, 0.5, 1, 2, 3, 5),  # 5 is MT's
    "steps": (1, 2, 5, 10, 20),
    "K": (1, 2, 4, 8, 16, 32),
}


def curves(evaluation):
    """Validation cosine against gamma, omega, DDIM steps and K, the others at the run's values.

    On validation pairs, since this figure is what one chooses by: a setting that was chosen on
    the test pairs would look better on them than it is."""
    run, args = evaluation.run, evaluation.run.args
    rows = evaluation.validation.full
    # 300 pairs at most are enough for a curve: every k-th, with k rounded up.
    k = math.ceil(len(rows) / 300)
    fig = Figure(figsize=(PAGE, 5.6), layout="constrained")
    axes = fig.subplots(2, 2, sharey=True).flatten()
    for direction in DIRECTIONS:
        c, z = evaluation.validation.of(direction, rows[::k])
        draw_gammas(axes[0], run, direction, c, z)
        # `terms` and `translate` take the run's settings, but for those that are named here.
        for ax, (name, values) in zip(axes[1:], SWEEPS.items(), strict=True):
            cosines = []
            for value in values:
                z_hat = run.translate(direction, c, **{name: value})
                cosines.append(metrics.cosine(z_hat, z))
            ax.plot(values, cosines, "o-", ms=3)

    axes[0].axvline(1, color="grey", lw=0.8, ls=":", label="gamma = 1 (MT)")
    # symlog: logarithmic, but linear below 2, so that there is a 0, where F is switched off. The
    # bend of the lines at 2 is this change of the axis.
    axes[0].set(xscale="symlog", xlim=(0, None), xlabel="gamma, a length (dots: auto)")
    axes[0].set_xticks([0, 1, 10, 100], ["0", "1", "10", "100"])
    axes[0].legend(frameon=False)
    axes[1].set(xlabel=f"omega (this run: {args.omega:g}; MT: 5)")
    axes[2].set(xscale="log", xlabel=f"DDIM steps (this run: {args.ddim_steps})")
    axes[3].set(xscale="log", xlabel=f"K samples (this run: {args.K})")
    # The numbers themselves: 10^1 stands for 10, and between 1 and 20 it would stand alone.
    for ax, name in ((axes[2], "steps"), (axes[3], "K")):
        ax.set_xticks(SWEEPS[name], [str(value) for value in SWEEPS[name]])
        ax.minorticks_off()
    for ax in axes[::2]:
        ax.set_ylabel("mean cosine, validation")
    evaluation.figure(fig, "curves")


def draw_gammas(ax, run, direction, c, z):
    """One line: the cosine of c M + gamma F over gamma; a dot at the run's own gamma."""
    # c M and F are computed once: gamma only mixes them.
    cM, F = run.terms(direction, c)
    scale = run.translators[direction].z_scale.cpu()
    auto = run.gamma[direction]
    # F has length 1, c M about sqrt(h2) at most, 28 for h2 = 768: at 300 F is nearly alone.
    gammas = sorted([0, *np.geomspace(0.1, 300, 60), auto])
    cosines = [metrics.cosine((cM + gamma * F) / scale, z) for gamma in gammas]
    line = ax.plot(gammas, cosines, label=direction)[0]
    ax.plot(auto, cosines[gammas.index(auto)], "o", color=line.get_color())


# --------------------------------------------------------------------------------------------------
# LD: samples of a bridge


def depth_map(solid):
    """Voxels (D, H, W) bool, the first axis down -> (D, H) floats in [0, 1], seen along the last.

    A ray goes into the solid at each place of its front. The sooner it meets a voxel, the brighter
    the place: 1 at the front, 0.2 at the back, and black where the ray meets nothing. The outline
    is the first of the four silhouettes of glyph-solids; of glyph-rooms and nuScenes, whose last
    axis is height, this is the view from above."""
    hit = solid.any(2)  # (D, H)
    distance = solid.argmax(2)  # of the first True along each ray
    brightness = 1 - 0.8 * distance / solid.shape[2]
    return np.where(hit, brightness, 0.0)


def item_image(x):
    """A scaled item, in [-1, 1], as an image (H, W) or (H, W, 3) in [0, 1]."""
    kind = kind_of(tuple(x.shape))
    x = (x.cpu().float().clamp(-1, 1) + 1) / 2
    if kind == "volume":
        return depth_map(x.numpy() > 0.5)
    if kind == "vector":
        return x[None].numpy()  # one line of pixels
    if kind == "views":
        # (V, C, H, W) -> (C, H, V W): side by side. Six would be tiny: they stand in two lines.
        lines = x.chunk(2) if len(x) == 6 else [x]
        x = torch.cat([torch.cat(list(views), 2) for views in lines], 1)
    return x.permute(1, 2, 0).squeeze(2).numpy()


def draw_columns(evaluation, test_set, columns, file):
    """One line a pair, one column for each of {title: scaled items (N, ...)}."""
    # Several views need a wide column. All other columns are one wide: vectors fill the place.
    widths = []
    for items in columns.values():
        height, width = item_image(items[0]).shape[:2]
        widths.append(width / height if kind_of(items[0].shape) == "views" else 1)
    fig, axes = picture_grid(test_set.N, widths)
    for column, (title, items) in zip(axes.T, columns.items(), strict=True):
        for n, (ax, item) in enumerate(zip(column, items, strict=True)):
            show_image(ax, item_image(item), title if n == 0 else "")
            # Vectors, and latents (titles E_y(y), E_x(x)), have no shape to keep: fill the place.
            stretched = kind_of(item.shape) == "vector" or title.startswith("E_")
            ax.set_aspect("auto" if stretched else "equal")
    evaluation.figure(fig, file)


# What the panels call their metrics.
AXES = {
    "psnr": "PSNR in dB",
    "ssim": "SSIM",
    "fid": "FID",
    "iou": "IoU",
    "one_nna": "1-NNA",
    "cosine": "cosine",
}


def draw_trade_off(evaluation, rows, references, panels, samplers):
    """Left the distance to the truth, of samples and of means of 4; right that of the two sets.

    rows         of RUN/bridge.json, each with method, metric, nfe, value
    references   {"regressor" and "ceiling": {metric: value}}
    panels       the two metrics; samplers: the names of ours"""
    # Of very few pairs there is no FID or 1-NNA: then the left panel stands alone.
    panels = [metric for metric in panels if metric in references["ceiling"]]
    fig = Figure(figsize=(PAGE, 4.8), layout="constrained")
    axes = fig.subplots(1, len(panels), squeeze=False)[0]
    for ax, metric in zip(axes, panels, strict=True):
        # A mean of samples is blurred: only its distance to the truth is worth a line.
        styles = {"": "o-"}
        if metric == panels[0]:
            styles["_mean4"] = "s--"
        for number, name in enumerate(samplers):
            for ending, style in styles.items():
                key = (f"ours, {name}", metric + ending)
                mine = [row for row in rows if (row["method"], row["metric"]) == key]
                if not mine:  # a sampler without means
                    continue
                nfe = [row["nfe"] for row in mine]
                values = [row["value"] for row in mine]
                label = name + (", mean of 4" if ending else "")
                ax.plot(nfe, values, style, ms=4, c=f"C{number}", label=label)
        # What one evaluation gives without any noise, and what no sample can exceed: the truth
        # itself through encoder and decoder.
        ax.plot(1, references["regressor"][metric], "k*", ms=9, label="regressor")
        ceiling = references["ceiling"][metric]
        ax.axhline(ceiling, c="grey", ls=":", label="ceiling: D_x(E_x(x))")
        ax.set(xscale="log", xlabel="network evaluations (NFE)", ylabel=AXES[metric])
        ax.set_xticks([1, 10, 100], ["1", "10", "100"])
    # Below both panels: inside it would lie on the lines.
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, frameon=False, ncols=3, loc="outside lower center")
    evaluation.figure(fig, "trade-off")
