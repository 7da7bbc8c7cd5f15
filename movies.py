"""
movies.py: moving pictures (GIF) of what a sampler does.

    python evaluate.py RUN --task movie           noise becomes pictures, step by step
    python evaluate_bridge.py RUN --task movie    a source becomes its target; volumes turn after it

A table says how good the end is; a movie shows the way: when the shape comes, when the detail, and
what differs from sample to sample. A picture of it at t = T/2 would be one frame.

A GIF has at most 256 colours, and every viewer shows it, README's page too. 64 are enough for grey
pictures. It may have a megabyte: a page with five larger ones would not be read on a train.

Map      figure_image, animate, save_movie  figure -> frame; frames; frames -> file
         translator_states, caption_movie   MT: samples of held-out captions getting clean
         states_of, bridge_movie            LD: the state z_t, decoded, from y to x
         turned, upright                    a volume, seen from another side
Letters  B rows   z_t a state   z0_hat the guess of its end   D, H, W voxels: down, across, away
"""

import itertools
import os

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from bridge_networks import kind_of
from bridge_scores import BridgeTestSet
from ddim_translator import ddim_step
from pictures import (
    NO_DECODER,
    depth_map,
    item_image,
    picture_grid,
    show_image,
    write_caption,
)
from runs import cpu_randn
from safe_files import whole

MOST_BYTES = 1_000_000
COLOURS = 64
DPI = 80
HOLD = 1.5  # seconds that the last frame stays
STEPS = 24  # of a sampler in a movie: more than a sample needs, so that the eye can follow
TURNS = 36  # views of a volume, ten degrees apart

# --------------------------------------------------------------------------------------------------
# Files


def figure_image(fig):
    """A matplotlib figure as a PIL image: one frame."""
    canvas = FigureCanvasAgg(fig)
    fig.set_dpi(DPI)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def animate(fig, drawn, images, titles):
    """[frame, ...]: the figure with images[n] in the places `drawn`, and titles[n] above."""
    title = fig.suptitle(titles[0])
    # The layout takes longer than the drawing: it is found once, and then nothing moves, either.
    fig.draw_without_rendering()
    fig.set_layout_engine("none")
    frames = []
    for now, words in zip(images, titles, strict=True):
        title.set_text(words)
        for place, image in zip(drawn, now, strict=True):
            place.set_data(np.asarray(image))
        frames.append(figure_image(fig))
    return frames


def save_movie(frames, path, seconds=0.12):
    """PIL images of one size -> a GIF that runs for ever, at most a megabyte; prints where it is.

    seconds: of a frame; the last one stays for HOLD. Frames shrink until the file is small enough.
    ValueError without frames."""
    if not frames:
        raise ValueError("a movie needs at least one frame")
    # A GIF counts hundredths of a second.
    durations = [int(1000 * seconds)] * (len(frames) - 1) + [int(1000 * HOLD)]
    with whole(path) as temporary:
        write_gif(frames, temporary, durations)
        while os.path.getsize(temporary) > MOST_BYTES and min(frames[0].size) > 16:
            smaller = [round(0.85 * side) for side in frames[0].size]
            frames = [frame.resize(smaller, Image.Resampling.LANCZOS) for frame in frames]
            write_gif(frames, temporary, durations)
        size = os.path.getsize(temporary)
    print(f"saved {path}: {len(frames)} frames, {size / 1e6:.2f} MB")


def write_gif(frames, path, durations):
    """One palette for all frames: each its own would flicker."""
    # The palette of the last frame, which is the clean one, and of the first, side by side.
    width, height = frames[0].size
    both = Image.new("RGB", (2 * width, height))
    both.paste(frames[0], (0, 0))
    both.paste(frames[-1], (width, 0))
    palette = both.quantize(COLOURS)
    # Dithering would sprinkle pixels that change from frame to frame: the file grows threefold.
    drawn = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    how = {"format": "GIF", "duration": durations, "loop": 0, "optimize": False}
    drawn[0].save(path, save_all=True, append_images=drawn[1:], **how)


# --------------------------------------------------------------------------------------------------
# MT: captions getting clean


@torch.no_grad()
def translator_states(net, c, start, steps=STEPS, omega=0.0):
    """Raw image latents [(B, h2), ...] on the way from noise to samples of raw c (B, h1).

    The loop of Translator.ddim_sample, kept at every step. Of its equal steps most are spent where
    all is noise, and the picture would come in the last three: these get shorter and shorter."""
    c = net.scale_c(c)
    levels = (net.T * torch.linspace(1, 0, steps + 1) ** 3).round().long()
    levels = levels.unique().flip(0).tolist()  # near t = 0 some would come twice
    z_t, states = start, [start]
    for t, s in itertools.pairwise(levels):
        z0_hat = net.denoise(z_t, t, c, omega)
        z_t = ddim_step(z_t, z0_hat, net.alpha[t], net.alpha[s])
        states.append(z_t)
    return [(state / net.r_scale + net.centre(c)) / net.z_scale for state in states]


def caption_movie(evaluation, lines=6, samples=5):
    """RUN/movie.gif: a line a held-out caption, with samples that get clean, and the true image."""
    if not evaluation.decode:
        print(f"\nmovie: skipped, {NO_DECODER}")
        return
    run, test, latents = evaluation.run, evaluation.test, evaluation.latents
    # A few captions, always the same ones: those of the figure text-to-image.
    rows = latents.full[np.random.default_rng(3).permutation(len(latents.full))[:lines]]
    c, _ = latents.of("text->image", rows)
    net = run.translators["text->image"]

    # All samples of all captions at once: B = lines x samples.
    start = cpu_randn(0)((len(rows) * samples, net.h2), run.device)
    c = c.repeat_interleave(samples, 0).to(run.device)
    states = translator_states(net, c, start, omega=run.args.omega)
    images = [evaluation.decode(state.cpu()) for state in states]  # [step][sample]

    fig, axes = picture_grid(len(rows), [1] * (samples + 1), captions=True)
    drawn = []
    for n, (line, (i, j)) in enumerate(zip(axes, latents.pairs[rows].tolist(), strict=True)):
        write_caption(line[0], test.captions[j])
        for k, ax in enumerate(line[1:-1]):
            title = f"sample {k + 1}" if n == 0 else ""
            drawn.append(show_image(ax, images[0][n * samples + k], title))
        show_image(line[-1], test.images[i], "true" if n == 0 else "")
    titles = [f"step {step} of {len(states) - 1}" for step in range(len(states))]
    save_movie(animate(fig, drawn, images, titles), evaluation.path("movie", ".gif"))


# --------------------------------------------------------------------------------------------------
# LD: from the source to the target


@torch.no_grad()
def states_of(bridge, y, steps=STEPS, randn=torch.randn):
    """Scaled items on the way of one sample of raw y (B, *y_shape): [D_x(z_t), ...], steps + 1.

    Bridge.sample notes the states at which it asks the network; its answer is the last one."""
    states = []
    x_hat, _ = bridge.sample(y, steps, randn=randn, states=states)
    return [*[bridge.D_x(state).cpu() for state in states], x_hat.cpu()]


def turned(solid, angle):
    """Voxels (D, H, W), the first axis down, turned by `angle` in degrees about the vertical.

    Each place of the new volume is looked up in the old one, so that no holes open: cos and sin
    turn it back, and the nearest voxel counts. What was outside is empty."""
    _, H, W = solid.shape
    phi = np.deg2rad(angle)
    # Places, from the middle: i across, j away.
    i, j = np.meshgrid(np.arange(H) - (H - 1) / 2, np.arange(W) - (W - 1) / 2, indexing="ij")
    across = np.rint(np.cos(phi) * i + np.sin(phi) * j + (H - 1) / 2).astype(int)
    away = np.rint(-np.sin(phi) * i + np.cos(phi) * j + (W - 1) / 2).astype(int)
    inside = (across >= 0) & (across < H) & (away >= 0) & (away < W)
    found = solid[:, across.clip(0, H - 1), away.clip(0, W - 1)]  # (D, H, W)
    return found & inside


def upright(x, dataset):
    """A scaled volume with its first axis down. Rooms and nuScenes have height last, and upward."""
    if dataset not in ("glyph-rooms", "nuscenes"):
        return x
    return x.permute(2, 0, 1).flip(0)


def bridge_movie(evaluation, lines=5, samples=3):
    """RUN/movie.gif: a line a held-out pair: source, samples on their way from y to x, truth.

    Volumes turn once when they have come."""
    if evaluation.is_latent:
        print("\nmovie: skipped, latents cannot be looked at")
        return
    run = evaluation.run
    test_set = BridgeTestSet(run, lines)
    bridge, truth = test_set.bridge, test_set.truth
    y = test_set.y.to(run.device)
    randn = cpu_randn(0)  # one generator: so each sample is another one
    draws = [states_of(bridge, y, randn=randn) for _ in range(samples)]

    # What each frame shows: items by column, the angle that they are seen from, and a title. First
    # the way, seen from the front; then the ends, from all sides.
    shown = []
    for step in range(STEPS + 1):
        columns = [*[draw[step] for draw in draws], truth]
        shown.append((columns, 0, f"t = {1 - step / STEPS:.2f} T"))
    if kind_of(bridge.x_shape) == "volume":
        for turn in range(1, TURNS + 1):
            shown.append((columns, 360 * turn / TURNS, "t = 0"))

    images = [views_of(columns, run.args.dataset, angle) for columns, angle, _ in shown]
    titles = [title for *_, title in shown]
    fig, drawn = bridge_figure(bridge.scale_y(y).cpu(), images[0], samples)
    save_movie(animate(fig, drawn, images, titles), os.path.join(run.folder, "movie.gif"))


def views_of(columns, dataset, angle):
    """[image, ...] of the items of all columns, line by line: of pair 0, then of pair 1, ..."""
    return [seen(item, dataset, angle) for line in zip(*columns, strict=True) for item in line]


def seen(item, dataset, angle):
    """A scaled item as an image; a volume stands upright, turned by `angle`."""
    if kind_of(tuple(item.shape)) != "volume":
        return item_image(item)
    solid = upright(item, dataset).numpy() > 0
    return depth_map(turned(solid, angle))


def bridge_figure(source, images, samples):
    """(figure, what is drawn in place of `images`): a line a pair, the source at its left."""
    # Several views need a wide column; but the samples are what is looked at.
    height, width = item_image(source[0]).shape[:2]
    wide = min(2, width / height) if kind_of(source.shape[1:]) == "views" else 1
    fig, axes = picture_grid(len(source), [wide] + [1] * (samples + 1))
    names = ["source", *[f"sample {n + 1}" for n in range(samples)], "truth"]
    drawn = []
    for n, line in enumerate(axes):
        titles = names if n == 0 else [""] * len(names)
        show_image(line[0], item_image(source[n]), titles[0])
        for ax, title in zip(line[1:], titles[1:], strict=True):
            drawn.append(show_image(ax, images[len(drawn)], title))
    return fig, drawn
