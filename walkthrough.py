# %% [markdown]
# # Modality translation, step by step
#
# MT draws the latent of an image, given that of its caption; LD the latent of a target, given that
# of its source. Here latents are first points in the plane: there the best denoiser is a formula,
# nothing has to be trained, and the whole field can be seen. Then the same steps are done with
# latents of glyphs, by a small trained run that comes with the source.
#
#     python walkthrough.py            top to bottom, a minute; pictures go to runs/walkthrough/
#     walkthrough.ipynb                the same cells, run, for Jupyter or VS Code
#
# A formula's tag (MT Eq. 1) is where PAPERS.md finds it in the code; all methods come from there.

# %%
import os

import numpy as np
import torch
from matplotlib.figure import Figure

from closed_form import best_gamma, cosine_of, moments, ridge
from data import load
from ddim_translator import ddim_step, guide, make_alpha, noised
from latent_bridge import Kernel, dbim, time_grid
from movies import figure_image, save_movie
from pictures import COLOURS, picture_grid, show_image, write_caption
from runs import TranslatorRun

FOLDER = "runs/walkthrough"
os.makedirs(FOLDER, exist_ok=True)
BLUE, ORANGE, GREEN = COLOURS[:3]  # for all eyes
torch.manual_seed(0)


def show(fig, name):
    """The figure: inline in a notebook, FOLDER/name.png of a script."""
    if "get_ipython" in globals():  # Jupyter puts it there, and `display`
        display(figure_image(fig))  # noqa: F821
    else:
        figure_image(fig).save(f"{FOLDER}/{name}.png")
        print(f"saved {FOLDER}/{name}.png")


def plane(titles, width=1.95):
    """(figure, a panel for each title): all show the plane, both coordinates from -2.5 to 2.5."""
    fig = Figure(figsize=(width * len(titles), width + 0.3), layout="constrained")
    axes = fig.subplots(1, len(titles), squeeze=False)[0]
    for ax, title in zip(axes, titles, strict=True):
        ax.set(xlim=(-2.5, 2.5), ylim=(-2.5, 2.5), aspect="equal", xticks=[], yticks=[])
        ax.set_title(title)
    return fig, axes


def dots(ax, points, colour=BLUE, size=4):
    ax.scatter(points[:, 0], points[:, 1], s=size, c=colour, lw=0)


# %% [markdown]
# ## 1. Noise, and how much of it
#
# A spiral and a grid, two moons and two circles stand for the latents of a training set. To train a
# diffusion, a point z_0 is mixed with noise (MT Eq. 1):
#
#     z_t = sqrt(alpha_t) z_0 + sqrt(1 - alpha_t) eps,      eps ~ N(0, 1)
#
# alpha_t falls from 1, clean, at t = 0 to 0.0003, noise, at t = T = 1000.


# %%
def at_angle(angle, radius):
    return torch.stack([angle.cos(), angle.sin()], 1) * radius[:, None]


def moons(place, which):
    """Places in [0, 1] along the upper moon (which = 0) or the lower one (1), its mirror image."""
    upper = at_angle(np.pi * place, torch.ones(len(place))) - torch.tensor([0.5, 0.18])
    return 1.2 * upper * (1 - 2 * which[:, None])


def circles(place, which):
    """Places in [0, 1] around the inner circle (which = 0) or the outer one (1)."""
    return at_angle(2 * np.pi * place, 0.8 + 1.2 * which)


N = 1200
place, which = torch.rand(N), torch.randint(0, 2, (N,))
turn = 3 * np.pi * torch.rand(N).sqrt()  # the root: as many points outside as inside
clouds = {
    "spiral": at_angle(turn, turn / 4.5),
    "grid": torch.randint(-2, 3, (N, 2)) * 0.9 + 0.03 * torch.randn(N, 2),
    "two moons": moons(place, which) + 0.05 * torch.randn(N, 2),
    "two circles": circles(place, which) + 0.05 * torch.randn(N, 2),
}
fig, axes = plane(clouds)
for ax, points in zip(axes, clouds.values(), strict=True):
    dots(ax, points)
show(fig, "clouds")

T = 1000
alpha = make_alpha(T)
times = [0, 5, 30, 150, 1000]
fig, axes = plane([f"t = {t}: {alpha[t]:.4f}" for t in times], 1.6)
for ax, t in zip(axes, times, strict=True):
    dots(ax, noised(clouds["spiral"], torch.randn(N, 2), alpha[t]))
show(fig, "noising")

# %% [markdown]
# Read (alpha stands above): at t = 5 the spiral is a blur, at t = 30 its arms run into each other,
# and from t = 150 on every cloud looks like this one: so sampling may start from pure noise.
#
# ## 2. The field: where does the denoiser point?
#
# A network is trained to guess z_0 from z_t by least squares. The best guess is the posterior mean
# z0_hat = E[z_0 | z_t]. For finitely many points it is a weighted mean of them: each has the weight
# of how likely it is to have become z_t,
#
#     w_i ~ exp(-|z_t - sqrt(alpha_t) z_i|^2 / (2 (1 - alpha_t))),     z0_hat = sum_i w_i z_i
#
# This is what a perfect network would learn. `at` and `std` are the middles and the width of the
# noised copies of the points.


# %%
def guess(z_t, at, std, points, log_weight=0.0):
    """E[z_0 | z_t], (B, 2): `points` (N, 2), each of which was moved to `at` and blurred by std.

    log_weight (N,) or (B, N): what is known beside z_t, such as a condition."""
    distance = torch.cdist(z_t.double(), at.double()) ** 2
    weights = torch.softmax(log_weight - distance / (2 * std**2), dim=1)
    return (weights @ points.double()).float()


def denoiser(points, log_weight=0.0):
    """The function (z_t, t) -> z0_hat of a cloud."""

    def denoise(z_t, t):
        std = (1 - alpha[t]).sqrt()
        return guess(z_t, alpha[t].sqrt() * points, std, points, log_weight)

    return denoise


denoise = denoiser(clouds["grid"])
side = torch.linspace(-2.2, 2.2, 13)
everywhere = torch.cartesian_prod(side, side)  # (169, 2) places to stand at
times = [1000, 300, 100, 10]
fig, axes = plane([f"t = {t}" for t in times])
for ax, t in zip(axes, times, strict=True):
    dots(ax, clouds["grid"], ORANGE, 3)
    arrows = (denoise(everywhere, t) - everywhere) / 2  # at full length they would cross
    ax.quiver(*everywhere.T, *arrows.T, angles="xy", scale_units="xy", scale=1, color=BLUE)
show(fig, "field")

# %% [markdown]
# Read: at t = 1000 nothing is known, and all arrows point at the mean of all points; at t = 10 each
# points at the nearest dot of the grid, and in between at the mean of those that are possible.
#
# ## 3. DDIM, step by step
#
# From pure noise to a sample: guess z_0, go only to the next cleaner level s, guess again
# (MT Eq. 3, in DDIM's right form):
#
#     z_s = sqrt(alpha_s) z0_hat + sqrt(1 - alpha_s) eps_hat,    eps_hat: the noise that z_t has if
#                                                                z0_hat is right
#
# `walk` is the loop of `Translator.ddim_sample`; it keeps what it passes. `power` is ours: 1 is the
# translator's grid of levels, equally far apart; 3 puts most of them near t = 0.


# %%
def walk(denoise, start, steps, power=1):
    """[z_T, ..., z_0] and the guesses [z0_hat, ...] of DDIM in so many steps."""
    levels = (T * torch.linspace(1, 0, steps + 1) ** power).round().long()
    levels = levels.unique().flip(0).tolist()  # near t = 0 some would come twice
    path, guesses = [start], []
    for t, s in zip(levels[:-1], levels[1:], strict=True):
        z0_hat = denoise(path[-1], t)
        guesses.append(z0_hat)
        path.append(ddim_step(path[-1], z0_hat, alpha[t].float(), alpha[s].float()))
    return path, guesses


denoise = denoiser(clouds["spiral"])
start = torch.randn(400, 2)
grids = {"1 step": (1, 1), "2 steps": (2, 1), "10": (10, 1), "50": (50, 1), "50, power 3": (50, 3)}
fig, axes = plane(grids, 1.6)
for ax, (S, power) in zip(axes, grids.values(), strict=True):
    path, _ = walk(denoise, start, S, power)
    dots(ax, clouds["spiral"], "0.85")
    dots(ax, path[-1], BLUE, 5)
    for line in torch.stack(path)[:, :12].transpose(0, 1):  # the ways of twelve of them
        ax.plot(line[:, 0], line[:, 1], c=ORANGE, lw=0.8)
show(fig, "steps")

# %% [markdown]
# Read: one step ends at the mean of the cloud, and two end near it; with more, points reach the
# spiral. It counts where the steps are: of fifty equal ones all but eight are spent above t = 150,
# where all is noise. A cosine likes the mean: tables take two steps, pictures twenty.
#
# ## 4. Guidance, and what it does to a mean
#
# Now the answer depends on a condition c: the upper moon or the lower one. A denoiser that knows c
# averages the points of that moon alone, e_c; one that does not averages all, e_0. Guidance goes
# beyond e_c (MT Eq. 4):
#
#     e = (1 + omega) e_c - omega e_0

# %%
points = clouds["two moons"]
of_upper = torch.where(which == 0, 0.0, -torch.inf)
with_c, without_c = denoiser(points, of_upper), denoiser(points)
omegas = [-1, 0, 1, 5]
true_mean = points[which == 0].mean(0)
print("the upper moon's own mean:", np.round(true_mean.tolist(), 2))
fig, axes = plane([f"omega = {omega}" for omega in omegas])
for ax, omega in zip(axes, omegas, strict=True):

    def guided(z_t, t, omega=omega):
        return guide(with_c(z_t, t), without_c(z_t, t), omega)

    path, _ = walk(guided, start, 50, power=3)
    mean, spread = path[-1].mean(0), path[-1].std(0)
    dots(ax, points, "0.85")
    dots(ax, path[-1], BLUE, 5)
    ax.plot(*true_mean, "o", c="k", ms=8, mfc="none")
    ax.plot(*mean, "x", c=ORANGE, ms=9, mew=2.5)
    print(f"omega {omega:2}: mean {np.round(mean.tolist(), 2)}, std {np.round(spread.tolist(), 2)}")
show(fig, "guidance")

# %% [markdown]
# Read: omega = -1 draws from both moons, 0 from the upper one, as asked; with omega = 5 the samples
# are pushed away from the other moon, and their mean (cross) leaves the true one (circle). Guidance
# makes samples more typical of c; it does not draw from p(z | c), and a mean of its samples is off.
#
# ## 5. c M, F, and Eq. 5
#
# A pair whose mean is curved: c is a number in [-1, 1], z lies at the angle 135 degrees times c,
# give or take 25. MT's answer has two terms (MT Eq. 5 and Eq. 6):
#
#     z_hat = c M + gamma F(c)
#
# M is ridge regression (MT Eq. 13): a straight line. F is a mean of K samples, drawn by DDIM from
# p(z | c). Its denoiser is `guess` again: pairs whose c is near have weight.


# %%
def curved_pairs(n):
    c = 2 * torch.rand(n, 1) - 1
    angle = np.pi * (0.75 * c[:, 0] + 25 / 180 * torch.randn(n))
    return c, at_angle(angle, torch.full((n,), 1.8))


def samples_of(c_new, K, c, z):
    """(K, B, 2) samples of p(z | c) for each row of c_new (B, 1)."""
    log_weight = -(torch.cdist(c_new, c) ** 2) / (2 * 0.04**2)  # (B, N): c within 0.04 or so
    draw = denoiser(z, log_weight.repeat(K, 1))
    path, _ = walk(draw, torch.randn(K * len(c_new), 2), 30, power=3)
    return path[-1].view(K, len(c_new), 2)


c, z = curved_pairs(1500)
W, b = ridge(moments([(c, z)]), 1e-6)
c_new, z_new = curved_pairs(200)
cM = (c_new.double() @ W + b).float()
drawn = samples_of(c_new, 16, c, z)
F = drawn.mean(0) / 2**0.5  # over sqrt(h2), so that gamma is a length
gamma = best_gamma(cM, F, z_new)  # a run takes validation pairs for this
answers = {
    "c M": cM,
    "one sample": drawn[0],
    "F: mean of 16": drawn.mean(0),
    "E[z|c], the best": at_angle(0.75 * np.pi * c_new[:, 0], torch.full((200,), 1.8)),
    "Eq. 5, gamma = 1": cM + F,
    f"Eq. 5, gamma = {gamma:.0f}": cM + gamma * F,
}
fig, axes = plane(list(answers)[:4])
for ax, z_hat in zip(axes, answers.values(), strict=False):
    dots(ax, z, "0.85")
    order = ax.scatter(*z_hat.T, c=c_new[:, 0], s=8, cmap="viridis")
fig.colorbar(order, ax=axes[-1], label="c")
show(fig, "eq5")
for name, z_hat in answers.items():
    print(f"{name:20} cosine {cosine_of(z_hat, z_new):.3f}")

# %% [markdown]
# Read: c M is a line through a ring, right in direction for small c and wrong at its ends; a sample
# is on the ring, but has the noise of its own beside the target's: where cos(E[z|c], z) = R it has
# R^2. The mean of 16 lies inside the ring, in the right direction, and a cosine asks for no more.
# From gamma = 10 on nothing changes: where F knows all that M knows, M is of no use; where F is
# learned from few pairs, the best gamma lies in the middle.
#
# ## 6. A bridge between two clouds
#
# LD does not start at noise but at the source: y, on two moons, is z_T; the target x, on two
# circles, is z_0. Here the place along the moon gives the angle on the circle, and nothing says
# which circle: each y has two right answers. The state is tied at both ends (the DDBM kernel):
#
#     z_t = a_t z_T + b_t z_0 + std_t eps
#
# with the pins a_0 = 0, b_0 = 1 and a_T = 1, b_T = 0; std is 0 at both.

# %%
kernel = Kernel("vp")
t = torch.linspace(0, 1, 101)
a_t, b_t, std_t = kernel(t)
fig = Figure(figsize=(8, 3), layout="constrained")
left, right = fig.subplots(1, 2)
for value, name, colour in ((a_t, "a_t", BLUE), (b_t, "b_t", ORANGE), (std_t, "std_t", GREEN)):
    left.plot(t, value, c=colour, label=name)
left.set(xlabel="t (0: target, 1: source)", ylabel="weight of z_T, z_0 and noise")
left.legend(frameon=False)
# One pair of numbers, z_0 = -1 and z_T = 1: the mean of z_t, and the band of one std.
mean = a_t * 1 + b_t * -1
right.fill_between(t, mean - std_t, mean + std_t, color="0.85", label="mean +- std")
for eps, style in ((-1.5, "--"), (-0.3, "-"), (0.9, ":")):
    right.plot(t, mean + std_t * eps, c=BLUE, ls=style, label=f"eps = {eps}")
right.plot([0, 1], [-1, 1], "o", c=ORANGE, label="the pins z_0, z_T")
right.set(xlabel="t", ylabel="z_t")
right.legend(frameon=False)
show(fig, "pins")

# %% [markdown]
# Read: all is z_0 at t = 0, all is z_T at t = 1, and in between there is noise of std up to 0.5.

# %%
inner_or_outer = torch.randint(0, 2, (N,))  # not which moon: that would be told by y
y = moons(place, which) + 0.02 * torch.randn(N, 2)
x = circles(0.5 * place + 0.5 * which, inner_or_outer) + 0.05 * torch.randn(N, 2)


def bridge_denoiser(z_T, seen):
    """(z_t, t) -> E[z_0 | z_t, z_T]; what it is asked about goes to the list `seen`."""
    near = -(torch.cdist(z_T, y) ** 2) / (2 * 0.1**2)  # (B, N): pairs whose y is near z_T

    def denoise(z_t, t):
        seen.append((t, z_t))
        if t == kernel.T:  # z_t is z_T: y is all that is known
            return torch.softmax(near, 1) @ x
        # z_t - a z_T is a noised copy of b z_0.
        a, b, std = kernel(t)
        return guess(z_t - a * z_T, b * x, std, x, near)

    return denoise


# The last hundred sources are one and the same; its answers are crosses.
sources = torch.cat([y[:400], y[7:8].repeat(100, 1)])
times = time_grid(20, kernel.T)
seen = []
results = {
    "with booting noise": dbim(bridge_denoiser(sources, seen), sources, kernel, times),
    "without": dbim(bridge_denoiser(sources, []), sources, kernel, times, randn=torch.zeros),
}
fig, axes = plane(["the source y", *results], 2.6)
for ax, points in zip(axes, (sources, *results.values()), strict=True):
    dots(ax, x, "0.85")
    dots(ax, points[:400], BLUE, 5)
    ax.plot(*points[400:].T, "x", c=ORANGE, ms=8)
show(fig, "bridge")
for name, z_0 in results.items():
    share = (z_0[400:].norm(dim=1) < 1.4).float().mean()
    print(f"{name}: {share:.0%} of the answers to one y lie on the inner circle")

# %% [markdown]
# Read: with booting noise (DBIM boot) a y has answers on both circles, spread as far as the data
# are. Without it nothing is random: a hundred times the same source has one answer.

# %%
passed = [*seen, (0.0, results["with booting noise"])]
chosen = [0, 3, 8, 14, 18, 20]
fig, axes = plane([f"t = {passed[n][0]:.2f}" for n in chosen], 1.33)
for ax, n in zip(axes, chosen, strict=True):
    dots(ax, passed[n][1][:400], BLUE, 4)
show(fig, "on-the-way")
frames = []
for t, z_t in passed:
    fig, (ax,) = plane([f"t = {t:.2f}"], 3.2)
    dots(ax, x, "0.88")
    dots(ax, z_t[:400], BLUE, 6)
    frames.append(figure_image(fig))
save_movie(frames, f"{FOLDER}/clouds.gif", seconds=0.15)

# %% [markdown]
# Read: the moons blur, most at t = 0.7, and become circles; runs/walkthrough/clouds.gif moves.
#
# ## 7. Glyphs: the same with trained networks
#
# The points are now latents: of a caption 160 numbers (TF-IDF, SVD), of a 32 x 32 picture 96 (PCA,
# which can also draw). The field is no formula any more: a network has learned it. `small-run` is a
# run as train.py leaves it, only smaller: `python make_walkthrough.py --checkpoint` made it.

# %%
run = TranslatorRun("small-run")
net = run.translators["text->image"]
test = load("glyphs", None, "test")  # characters that it has never seen
captions = [
    "serif bold latin capital letter s with caron",
    "sans latin capital letter u with macron",
    "mono bold greek small letter eta with tonos",
    "sans cyrillic capital letter zhe",
]
image_of = {test.captions[j]: test.images[i] for i, j in test.pairs}
true_pictures = [image_of[caption] for caption in captions]


def noise(n, seed):
    return torch.randn(n, 96, generator=torch.Generator().manual_seed(seed))


def draw(z_0):
    """Image latents (B, 96) in the units of the diffusion -> pictures (B, 32, 32)."""
    return run.E_image.decode((z_0 + net.centre(None)) / net.z_scale)


@torch.no_grad()
def walk_for(c, start, omega=0.0):
    """`walk`, above, in 20 steps of the trained network, for raw text latents c (B, 160)."""
    c = net.scale_c(torch.as_tensor(c))
    return walk(lambda z_t, t: net.denoise(z_t, t, c, omega), start, 20)


def table_of_pictures(name, rows, titles, labels):
    """Shows a picture (H, W) for each of rows[i][j]."""
    fig, axes = picture_grid(len(rows), [1] * len(titles), captions=True)
    for n, (line, pictures, label) in enumerate(zip(axes, rows, labels, strict=True)):
        write_caption(line[0], label)
        for ax, picture, title in zip(line[1:], pictures, titles, strict=True):
            show_image(ax, picture, title if n == 0 else "")
    show(fig, name)


# %% [markdown]
# ### A caption becomes a picture

# %%
path, guesses = walk_for(run.E_text(captions), noise(4, 5))
columns = {f"step {n}": draw(path[n]) for n in (0, 15, 17, 18, 19, 20)}
columns |= {f"guess {n}": draw(guesses[n - 1]) for n in (1, 11)}
columns["true"] = true_pictures
table_of_pictures(
    "glyphs-steps", list(zip(*columns.values(), strict=True)), list(columns), captions
)

# %% [markdown]
# Read: as in the plane, most of twenty equal steps are spent in noise, and the letter appears in
# the last three; the first guess is a mean, blurred where the caption leaves it open.
#
# ### Guidance

# %%
bare = run.E_text(["latin capital letter s with caron"])  # no typeface: twelve right answers
rows, omegas = [], [-1, 0, 2, 5]
for omega in omegas:
    path, _ = walk_for(bare.repeat(7, 0), noise(7, 2), omega)
    rows.append(draw(path[-1]))
labels = [f"omega = {omega}" for omega in omegas]
table_of_pictures("glyphs-guidance", rows, [""] * 7, labels)

# %% [markdown]
# Read: -1 draws any glyph, 0 the letter in several typefaces; from 2 on contrast grows and the
# typefaces become alike: in the plane, samples were pushed away in the same manner.
#
# ### c M, F, and Eq. 5

# %%
pairs = test.pairs[~test.bare][::5]  # every fifth held-out picture with its caption
z = torch.from_numpy(run.E_image([test.images[i] for i in pairs[:, 0]]))
c = torch.from_numpy(run.E_text([test.captions[j] for j in pairs[:, 1]]))
gamma = run.gamma["text->image"]
cM, F = run.terms("text->image", c)
_, one = run.terms("text->image", c, K=1, steps=20)
answers = {"c M": cM, "one sample, 20 steps": one, "F: mean of 16": F}
answers |= {"Eq. 5, gamma = 1": cM + F, f"Eq. 5, gamma = {gamma:.0f}": cM + gamma * F}
for name, z_hat in answers.items():
    print(f"{name:22} cosine {cosine_of(z_hat, z):.3f}")

# %% [markdown]
# Read: as in the plane, M alone is a straight line, a sample errs twice, the mean of samples is
# best; with MT's gamma = 1 F hardly has a say, for z is about sqrt(96) long here.
#
# ### Between two captions

# %%
ends = run.E_text(["sans bold latin capital letter o", "sans bold latin capital letter x"])
share = torch.linspace(0, 1, 7)[:, None]
between = (1 - share) * torch.from_numpy(ends[:1]) + share * torch.from_numpy(ends[1:])
rows = []
for seed in (0, 1):
    path, _ = walk_for(between, noise(1, seed).repeat(7, 1))  # the same noise for all seven
    rows.append(draw(path[-1]))
titles = ["an O", *[f"{s:.0%}" for s in share[1:-1, 0].tolist()], "an X"]
table_of_pictures("glyphs-between", rows, titles, ["noise 1", "noise 2"])

# %% [markdown]
# Read: the picture changes quickly after a half, and passes through what is neither an O nor an X:
# the latents of captions are no scale of shapes.
#
# ### Did it learn the training pictures by heart?

# %%
train = load("glyphs", None, "train")
known = torch.from_numpy(run.E_image([train.images[i] for i in range(len(train.images))]))
path, _ = walk_for(run.E_text(captions), noise(4, 5))  # the samples of above
sample = (path[-1] + net.centre(None)) / net.z_scale
similarity = torch.nn.functional.normalize(sample) @ torch.nn.functional.normalize(known).T
nearest = similarity.topk(5)
rows = []
for picture, places in zip(draw(path[-1]), nearest.indices.tolist(), strict=True):
    rows.append([picture, *[train.images[i] for i in places]])
table_of_pictures(
    "glyphs-neighbours", rows, ["sample", "nearest", "2nd", "3rd", "4th", "5th"], captions
)
print("cosine with the nearest of 42,232:", np.round(nearest.values[:, 0].tolist(), 2))

# %% [markdown]
# Read: the neighbours are related letters, and none is the sample: it was drawn, not looked up.
#
# Where to go on: `ddim_translator.py` and `latent_bridge.py` are the two methods, top to bottom;
# `python evaluate.py small-run --task curves` measures what was seen here; `assignments/` asks for
# the formulas themselves.
