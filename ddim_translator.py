"""
ddim_translator.py: the method of MT, from a condition latent c to a target latent z.

A frozen encoder has turned a caption into a vector c, another has turned its image into a vector
z. Given c alone, say what z is (or the other way round: the method does not care):

    z_hat = c M + gamma F(c),    F(c) = Normalize(CDIM(c))             MT Eq. 5 and 6

Why a linear map? Least squares finds the part of z that is linear in c: its projection. With good
    encoders that is much (MT, COCO: a cosine of 0.8386 with c M alone, where a constant answer has
    0.7158), cheap, and hard to overfit.
Why is it not enough? It cannot bend: what depends on a product or a threshold of c's numbers is
    lost. And where several z are right ("a dog on grass") it gives their mean, like none of them.
Why a diffusion? CDIM is a sampler: DDIM steps, by a network that sees c, take noise away little
    by little. From pure noise it comes to a sample of p(z | c), however bent that is; from another
    noise to another of the right answers.
Why K samples, averaged? A cosine asks for one vector near all right answers. If their mean
    direction has cosine R with them, a sample has only R^2. R = 0.8: one sample 0.64, the mean of
    16 samples 0.79, of infinitely many 0.80.
Why Normalize? So that gamma says how far F may go: one number, measured on validation pairs. MT
    gives each row of F the length 1. But the mean of samples is shorter the less they agree, and
    that is worth knowing: we divide all rows by one number, which keeps it.
Why M in closed form? With gamma = 0, z_hat is then ridge regression, and the best gamma is never
    worse than 0: the diffusion can only add. Trained by Eq. 9, M fell behind ridge.

Map      make_alpha, noised, ddim_step, guide     the diffusion: noise in, noise out
         time_embedding, Layer, EpsTheta          the network
         Noise, draw_noise                        what is random in a training step
         Translator                               M, CDIM and F together: scales, loss, z_hat
         demo                                     a toy problem
Letters  B batch   h1 = dim c   h2 = dim z   K samples   T steps: t = 0 is clean, t = T is noise
Papers   [MT]      Lee, Lee, Pak, Kim, "Modality Translation through Conditional Encoder-Decoder"
         [DDIM]    Song, Meng, Ermon, "Denoising Diffusion Implicit Models", arXiv 2010.02502
         [diffae]  Preechakul et al., "Diffusion Autoencoders", arXiv 2111.15640: the backbone
Differs  a star marks an equation we changed: PAPERS.md says why
Try      python ddim_translator.py        the toy problem, 10 s on one core
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as fn
from torch import nn

from closed_form import best_gamma, moments, ridge

BETA_TIMES_T = 8  # beta = 8 / T, so that alpha_T = (1 - 8 / T)^T is about e^-8 = 3e-4 for any T
TIME = 64  # numbers that stand for a step number inside the network
ROWS_AT_T = 8  # every eighth row of a training batch is at t = T: see draw_noise

# ---------------------------------------------------------------------------------------------
# Diffusion: the schedule, one step forward, one step back


def make_alpha(T=1000):
    """alpha_t = prod_{s <= t} (1 - beta_s): the share of z_0's variance that is left at step t.

    (T + 1,) float64, from alpha_0 = 1, clean, to alpha_T, noise. Others write alpha-bar.
    Raises ValueError for T < 9: beta would reach 1."""
    if T <= BETA_TIMES_T:
        raise ValueError(f"T = {T}: the schedule needs T > 8, for beta = 8 / T must be below 1")
    # A step replaces the share beta of the variance by noise. beta is constant, 0.008 at T = 1000:
    # diffae's choice for latents. DDPM's beta, made for images, rises slowly from 1e-4. Ours is
    # noisier at most t, and the noisier z_t is, the more the network has to read from c.
    # Sampling starts from pure noise, so alpha_T has to be near 0. Hence 8 / T: with 0.008 at
    # T = 50, alpha_T would be 0.67, and training would never show the noise that sampling meets.
    beta = BETA_TIMES_T / T
    return (1 - beta) ** torch.arange(T + 1, dtype=torch.float64)


def noised(z_0, eps, alpha_t):
    """z_t = sqrt(alpha_t) z_0 + sqrt(1 - alpha_t) eps; z_0, eps (B, h2), alpha_t (B, 1).

    The squares of the two factors sum to 1: if z_0 has variance 1, as noise does, so has z_t."""
    return alpha_t.sqrt() * z_0 + (1 - alpha_t).sqrt() * eps  # MT Eq. 1


def ddim_step(z_t, z0_hat, alpha_t, alpha_s, eta=0.0, noise=None):
    """From level alpha_t to the cleaner alpha_s >= alpha_t; z_t, z0_hat, noise (B, h2).

    z_s = sqrt(alpha_s) z0_hat + sqrt(1 - alpha_s - sigma^2) eps_hat + sigma noise   (DDIM Eq. 12)
    eta = 0 is the deterministic DDIM, eta = 1 with single steps DDPM. MT prints sqrt(1 - alpha_t)
    as the second factor: that puts back the noise of the old level, and samples never get clean."""
    # z0_hat is the network's guess of z_0. If it is right, Eq. 1 says which noise is in z_t.
    eps_hat = (z_t - alpha_t.sqrt() * z0_hat) / (1 - alpha_t).sqrt()

    # Now Eq. 1 again, at the cleaner level: the guess, with less of that same noise. At eta > 0 a
    # part of the noise, of std sigma, is fresh; then less is kept, and the sum is 1 - alpha_s.
    variance = (1 - alpha_s) / (1 - alpha_t) * (1 - alpha_t / alpha_s)  # of q(z_s | z_t, z_0)
    sigma = eta * variance.sqrt()
    kept = (1 - alpha_s - sigma**2).clamp(min=0).sqrt()  # rounding may go below 0
    z_s = alpha_s.sqrt() * z0_hat + kept * eps_hat  # MT Eq. 3*
    return z_s if eta == 0 else z_s + sigma * noise


def guide(e_c, e_0, omega):
    """Classifier-free guidance (Ho, Salimans, arXiv 2207.12598) of the network's outputs (B, h2):
    e_c is with the condition, e_0 without.

    On the line from e_0 to e_c: omega = -1 is e_0, 0 is e_c, and omega > 0 goes beyond e_c, so
    that all that c changes is exaggerated. The guidance_scale of diffusers is 1 + omega."""
    return (1 + omega) * e_c - omega * e_0  # MT Eq. 4


# ---------------------------------------------------------------------------------------------
# The network


def time_embedding(t, dim=TIME):
    """The step number as dim numbers in [-1, 1], cosines first as in diffae: t (B,) -> (B, dim).

    Like a clock with dim / 2 hands: the fastest turns once in 6.3 steps (2 pi), the slowest once
    in 47,000 (dim = 64). Fast hands tell t from t + 1, slow ones tell early from late; the number
    t itself, 1 to 1000, would be a badly scaled input."""
    half = dim // 2
    hand = torch.arange(half, device=t.device)
    speed = torch.exp(-math.log(10000) * hand / half)  # from 1 down to 1 / 7500
    angle = t[:, None].float() * speed  # (B, dim/2), where the hands stand
    return torch.cat([angle.cos(), angle.sin()], 1)


class Layer(nn.Module):
    """h (B, width_in), emb (B, TIME) of the step, c (B, h1) -> (B, width)."""

    def __init__(self, width_in, width, h1, dropout):
        super().__init__()
        self.linear = nn.Linear(width_in, width)
        self.from_t = nn.Linear(TIME, width)
        self.from_c = nn.Linear(h1, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h, emb, c):
        # The step says which features count at this level of noise: it scales them, by 1 + a little
        # in a fresh network. c brings news: it is added, and at every layer, so that no layer has
        # to carry it on to the next. MT calls this "residual connections" that inject c.
        h = self.linear(h) * (1 + self.from_t(emb)) + self.from_c(c)
        return self.dropout(fn.silu(self.norm(h)))


class EpsTheta(nn.Module):
    """eps_theta(z_t, t, c), diffae's latent DDIM: an MLP, not a U-Net, for z is no picture.

    z_t (B, h2), t (B,) integers in 1..T, c (B, h1), keep (B,) bool or None -> (B, h2).
    Where keep is False the learned phi stands for c: that is MT Eq. 4's unconditional network.
    The name is the paper's; Translator.predict says whether the output is eps, z_0 or v."""

    def __init__(self, h1, h2, width=2048, layers=10, dropout=0.0):
        super().__init__()
        # Each layer but the first takes the features before it and, again, z_t.
        sizes = [h2] + [width + h2] * (layers - 2)
        one, two = nn.Linear(TIME, TIME), nn.Linear(TIME, TIME)
        self.time = nn.Sequential(one, nn.SiLU(), two, nn.SiLU())
        # phi means "no condition given". It starts at 0, the mean of scaled c.
        self.phi = nn.Parameter(torch.zeros(h1))
        self.layers = nn.ModuleList(Layer(n, width, h1, dropout) for n in sizes)
        self.last = nn.Linear(width + h2, h2)  # no norm here: the output may have any size

    def forward(self, z_t, t, c, keep=None):
        if keep is not None:
            c = torch.where(keep[:, None], c, self.phi)
        emb = self.time(time_embedding(t))  # (B, TIME)

        # z_t again at every layer: diffae's skip connections. At a small t the output is z_t itself
        # minus a little noise, number by number, and nine LayerNorms would blur it on the way.
        h = self.layers[0](z_t, emb, c)  # (B, width)
        for layer in self.layers[1:]:
            h = layer(torch.cat([h, z_t], 1), emb, c)  # (B, width + h2) -> (B, width)
        return self.last(torch.cat([h, z_t], 1))  # (B, h2)


# ---------------------------------------------------------------------------------------------
# The translator


class Noise(NamedTuple):
    """All that is random in a training step: it can be repeated, split over devices, and tested."""

    t: torch.Tensor  # (B,) in 1..T; every eighth is T, where L_recon is measured
    eps: torch.Tensor  # (B, h2)   the noise of Eq. 1
    keep: torch.Tensor  # (B,) bool; False with probability p: c is replaced by phi


def draw_noise(B, h2, T, p=0.05, generator=None):
    """The Noise of one batch, drawn on the CPU: the same numbers for any device or process."""
    t = torch.randint(1, T + 1, (B,), generator=generator)

    # Why every eighth row is at t = T. L_recon wants z_hat near z, and z_hat is made from the
    # network's guess of z_0 given z_t and c. At a small t, z_t nearly IS z_0: copying z_t to the
    # output would meet L_recon, and teach nothing about c. At t = T nothing of z_0 is left
    # (sqrt(alpha_T) = 0.018), so the guess has to come from c. That is also where sampling starts.
    # Left to chance, t = T would come once in a thousand rows. And the guess at t = T is E[z|c],
    # what a mean of samples comes to. Half of the rows there make that mean better, by 0.003 in
    # cosine, and single samples worse, for the other steps are practised less (RESULTS.md).
    t[::ROWS_AT_T] = T

    # Now and then c is hidden, so that one network learns both parts of Eq. 4, e_c and e_0.
    keep = torch.rand(B, generator=generator) >= p
    eps = torch.randn(B, h2, generator=generator)
    return Noise(t, eps, keep)


class Translator(nn.Module):
    """One direction, c -> z. Two of them are the paper's conditional encoder and decoder.

    predict    what the network outputs: "z_0" (our default), "eps" (the paper's), or
               "v" = sqrt(alpha) eps - sqrt(1 - alpha) z_0
    objective  "ridge" (our default): M is solved in closed form, and frozen; the DDIM models z.
               With gamma = 0 z_hat is ridge regression, so a measured gamma is never below it;
               "joint": the DDIM models z, and M is trained by Eq. 9, as printed;
               "residual": M as for "ridge", and the DDIM models z - c M (Lemma 1)
    faded      whether the network sees sqrt(alpha_t) z_t (our default) or z_t (the paper's)
    normalize  "one": F is the mean of samples over sqrt(h2), one number for all (our default);
               "row": F is that mean over its own length (Eq. 6 as printed)
    unit       whether c and z are divided by their lengths before all else (not our default)

    Three units (`fit` measures the scales):
    raw              as the encoders give them
    scaled           c: (c - c_mean) c_scale.  z: z z_scale, its mean still in it.
                     The variance, averaged over the coordinates, is 1
    the diffusion's  (scaled z - centre(c)) r_scale: mean 0, mean square 1.  centre(c) is z's mean
                     (r_scale = 1), or for "residual" c M (r_scale = 1 / std of what is left)
    Example. A CLIP latent has length 1 and 512 numbers, of std 1 / sqrt(512) = 0.044 if their mean
    is near 0. The first diffusion step adds noise of std sqrt(0.008) = 0.089: the signal would
    drown at once. So z_scale = 22.6; now the std is 1, and |z - mean| about sqrt(512) = 22.6.
    gamma is a length in scaled units: as |F| = 1, gamma = 1 moves z_hat by 1, a small step, and
    gamma = 22.6 by as much as z typically differs from its mean.

    Who makes which vectors (B, h2); `how` is steps, omega, eta, randn:
    method            takes                     returns                      in which units
    ddim_sample       scaled c, start noise     one sample                   the diffusion's
    average_samples   scaled c, K, how          the mean of K samples        the diffusion's
    sample            raw c, K, how             the mean of K samples        raw
    terms             raw c, K, how             c M and F(c), a pair         scaled
    forward           raw c, gamma, K, how      z_hat = c M + gamma F(c)     raw"""

    def __init__(
        self,
        h1,
        h2,
        width=2048,
        layers=10,
        dropout=0.0,
        T=1000,
        predict="z_0",
        objective="ridge",
        faded=True,
        normalize="one",
        unit=False,
    ):
        super().__init__()
        if predict not in ("z_0", "eps", "v"):
            raise ValueError(f"predict = {predict!r}: choose z_0, eps or v")
        if objective not in ("ridge", "joint", "residual"):
            raise ValueError(f"objective = {objective!r}: choose ridge, joint or residual")
        if normalize not in ("one", "row"):
            raise ValueError(f"normalize = {normalize!r}: choose one or row")
        self.h1, self.h2, self.T = h1, h2, T
        self.predict, self.objective, self.faded = predict, objective, faded
        self.normalize, self.unit = normalize, unit
        self.net = EpsTheta(h1, h2, width, layers, dropout)
        self.M = nn.Linear(h1, h2)
        # Buffers are no weights, but move to the GPU and are saved with the weights.
        self.register_buffer("alpha", make_alpha(T).float())
        self.register_buffer("c_mean", torch.zeros(h1))
        self.register_buffer("z_mean", torch.zeros(h2))
        for name in ("c_scale", "z_scale", "r_scale"):
            self.register_buffer(name, torch.ones(()))

    # -- measured once, in closed form, before training

    @torch.no_grad()
    def fit(self, found, lam=1e-6):
        """Means and scales from the Moments of prepared training pairs; M, solved and frozen,
        unless it is to be trained ("joint"). lam: ridge's (closed_form.py).

        Call it before moving to another device."""
        self.c_mean.copy_(found.c_mean)
        self.z_mean.copy_(found.z_mean)
        # One number for all coordinates: vectors get longer or shorter, and every angle stays. A
        # number for each would change the cosines that we are judged by.
        c_scale = found.c_var.mean().rsqrt()
        z_scale = found.z_var.mean().rsqrt()
        self.c_scale.copy_(c_scale)
        self.z_scale.copy_(z_scale)
        if self.objective == "joint":
            return

        # W is for raw latents: divide by the scale of what comes in, multiply by that of what
        # comes out. Scaled c has mean 0, so the bias is the mean of z.
        W, _ = ridge(found, lam)
        self.M.weight.copy_(W.T * z_scale / c_scale)
        self.M.bias.copy_(found.z_mean * z_scale)
        self.M.requires_grad_(False)
        if self.objective == "residual":
            # Var(z - c W) = Var(z) - 2 Cov(c W, z) + Var(c W), summed over the coordinates.
            left = found.z_var.sum() - 2 * (W * found.CZ).sum() + (W * (found.CC @ W)).sum()
            left = (left * z_scale**2).clamp(min=1e-9) / self.h2
            self.r_scale.copy_(left.rsqrt())

    # -- units

    def prepared(self, x):
        """Raw c or z as `fit` and all that follows take it: itself, or with length 1."""
        return fn.normalize(x, dim=1) if self.unit else x

    def scale_c(self, c):
        """Raw c (B, h1) -> scaled. ValueError for another width: another encoder's latents."""
        if c.ndim != 2 or c.shape[1] != self.h1:
            raise ValueError(f"c has shape {tuple(c.shape)}: this translator takes (B, {self.h1})")
        return (self.prepared(c) - self.c_mean) * self.c_scale

    def scale_z(self, z):
        """Raw z (B, h2) -> scaled."""
        return self.prepared(z) * self.z_scale

    def linear(self, c):
        """c M (B, h2) in scaled units, for scaled c."""
        return self.M(c)

    def centre(self, c):
        """What the diffusion need not model, in scaled units: the mean of z, or c M; scaled c."""
        return self.linear(c) if self.objective == "residual" else self.z_mean * self.z_scale

    # -- the network's output and what it means

    def output(self, z_t, t, c, keep=None):
        """What the network says at steps t (B,): (B, h2), in the precision that it computes in."""
        if not self.faded:
            return self.net(z_t, t, c, keep)
        # At t = T, z_t is noise: 128 random numbers that enter at every layer, and that the network
        # has to learn to ignore while it listens to c. A regression, which sees c alone, learns
        # faster. sqrt(alpha_t) z_t is the best linear guess of z_0 from z_t: the signal's share in
        # z_t's variance is alpha_t. It is z_t itself where z_t is clean, and fades with the signal:
        # at t = T its size is 0.018.
        return self.net(self.alpha[t][:, None].sqrt() * z_t, t, c, keep)

    def z0_of(self, out, z_t, alpha_t):
        """The z_0 that an output of the network means, given z_t: Eq. 1, solved for z_0."""
        if self.predict == "eps":
            return (z_t - (1 - alpha_t).sqrt() * out) / alpha_t.sqrt()
        if self.predict == "v":
            return alpha_t.sqrt() * z_t - (1 - alpha_t).sqrt() * out
        return out

    def target(self, z_0, eps, alpha_t):
        """What the network should have said, from the z_0 and eps that made z_t."""
        v = alpha_t.sqrt() * eps - (1 - alpha_t).sqrt() * z_0
        return {"z_0": z_0, "eps": eps, "v": v}[self.predict]

    def denoise(self, z_t, t, c, omega=0.0):
        """z0_hat (B, h2) at step t (an int), scaled c; guided if omega is not 0.

        MT guides eps, we guide whatever the network outputs: the result is the same. Given z_t, z_0
        and v are affine in eps, A + b eps with the same A and b for e_c and e_0. Guidance is a sum
        with weights 1 + omega and -omega, which add up to 1, so A comes out once. Example: A = 5,
        b = -1, e_c = 1, e_0 = 3, omega = 1. Guided eps: 2 * 1 - 3 = -1, so z_0 = 5 + 1 = 6.
        Guided z_0: 2 * (5 - 1) - (5 - 3) = 6."""
        B = len(c)
        if omega == 0:
            t_rows = torch.full((B,), t, device=c.device)
            out = self.output(z_t, t_rows, c)
        else:
            # e_c and e_0 in one call, as a batch of twice the size: faster than two calls.
            t_rows = torch.full((2 * B,), t, device=c.device)
            keep = torch.arange(2 * B, device=c.device) < B
            both = self.output(z_t.repeat(2, 1), t_rows, c.repeat(2, 1), keep)
            e_c, e_0 = both.chunk(2)
            out = guide(e_c, e_0, omega)
        return self.z0_of(out.to(z_t.dtype), z_t, self.alpha[t])

    def ddim_sample(self, c, start, steps=10, omega=0.0, eta=0.0, randn=torch.randn):
        """CDIM(c), a sample of z_0, from the noise `start` (B, h2); randn is for eta > 0 alone."""
        levels = (
            torch.linspace(self.T, 0, steps + 1).round().long().tolist()
        )  # steps = 2: 1000, 500, 0
        z_t = start
        for t, s in zip(levels[:-1], levels[1:], strict=True):
            # Guess the end, then go only to the next level s: there the guess will be better.
            z0_hat = self.denoise(z_t, t, c, omega)
            noise = randn(z_t.shape, device=z_t.device) if eta else None
            z_t = ddim_step(z_t, z0_hat, self.alpha[t], self.alpha[s], eta, noise)
        return z_t

    def F(self, z_0, c):
        """Normalize: z_0, a sample or the mean of K, in the diffusion's units -> scaled, about 1.

        The mean of z is put back first, for cosines are about z, not z - mean. "residual": F is
        the direction of the residual, and c M has the mean in its bias."""
        mean = 0.0 if self.objective == "residual" else self.centre(c)
        z_0 = z_0 / self.r_scale + mean
        # The mean of K samples is short where they disagree: it says how much is known. A length of
        # 1 for each row forgets that, and then z_hat - mean no longer points at z - mean.
        if self.normalize == "row":
            return fn.normalize(z_0, dim=1)
        return z_0 / math.sqrt(self.h2)  # MT Eq. 6*

    # -- training

    recon_rows = slice(None, None, ROWS_AT_T)  # where L_recon is measured: see draw_noise

    def ddim_error(self, difference):
        """L_ddim from target minus output, (B, h2)."""
        return difference.square().mean()  # MT Eq. 2*

    def loss(self, c, z, noise, gamma=1.0, lam1=1.0, lam2=2.0, recon_steps=1):
        """MT Eq. 9 of raw latents (B, h1), (B, h2): (loss, L_recon, L_ddim), means of numbers.

        recon_steps says how z_hat is made inside L_recon, of which MT is silent, on the rows at T:
        1   from the network's guess of z_0 there: it is at hand from L_ddim, and costs nothing
        n   by n DDIM steps from the same noise, with the gradient through all of them"""
        c_scaled = self.scale_c(c)
        z_scaled = self.scale_z(z)
        z_0 = (z_scaled - self.centre(c_scaled)) * self.r_scale

        # L_ddim: add noise, and ask the network what was there before. Under mixed precision its
        # output has 16 bits; the losses are computed in 32.
        alpha_t = self.alpha[noise.t][:, None]  # (B, 1)
        z_t = noised(z_0, noise.eps, alpha_t)
        out = self.output(z_t, noise.t, c_scaled, noise.keep).to(z.dtype)
        L_ddim = self.ddim_error(self.target(z_0, noise.eps, alpha_t) - out)
        if lam1 == 0:
            return lam2 * L_ddim, torch.zeros_like(L_ddim), L_ddim

        # L_recon: z_hat of Eq. 5 against z. M is trained by this alone. Only on the rows that
        # draw_noise has put at t = T: on all others z_t would give z away.
        rows = self.recon_rows
        c_rows, z_rows = c_scaled[rows], z_scaled[rows]  # (B / 8, h1), (B / 8, h2)
        if recon_steps == 1:
            z0_hat = self.z0_of(out, z_t, alpha_t)[rows]
        else:
            z0_hat = self.ddim_sample(c_rows, noise.eps[rows], recon_steps)
        z_hat = self.linear(c_rows).to(z.dtype) + gamma * self.F(z0_hat, c_rows)
        L_recon = (z_rows - z_hat).abs().mean()  # MT Eq. 8*
        return lam1 * L_recon + lam2 * L_ddim, L_recon, L_ddim  # MT Eq. 9

    # -- inference

    def average_samples(self, c, K=1, steps=10, omega=0.0, eta=0.0, randn=torch.randn):
        """The mean of K samples for scaled c, in the diffusion's units. K B rows at once."""
        start = randn((K * len(c), self.h2), device=c.device)
        z_0 = self.ddim_sample(c.repeat(K, 1), start, steps, omega, eta, randn)
        return z_0.view(K, len(c), self.h2).mean(0)

    @torch.no_grad()
    def sample(self, c, **how):
        """A sample of p(z|c), or the mean of K: raw c (B, h1) -> raw z (B, h2)."""
        c_scaled = self.scale_c(c)
        z_0 = self.average_samples(c_scaled, **how)
        return (z_0 / self.r_scale + self.centre(c_scaled)) / self.z_scale

    @torch.no_grad()
    def terms(self, c, K=8, **how):
        """(c M, F(c)) in scaled units, both (B, h2), for raw c (B, h1); K samples averaged in F."""
        c_scaled = self.scale_c(c)
        cM = self.linear(c_scaled)
        F = self.F(self.average_samples(c_scaled, K, **how), c_scaled)
        return cM, F

    def forward(self, c, gamma=1.0, **how):
        """z_hat = c M + gamma F(c): raw c (B, h1) -> raw z_hat (B, h2); `how` as for terms()."""
        cM, F = self.terms(c, **how)
        return (cM + gamma * F) / self.z_scale  # MT Eq. 5


def demo(steps=600):
    """z = tanh(c A) W + noise. Prints cosines on fresh pairs, beside that of the true E[z|c].

    The mean is curved, so c M alone falls short; the noise is large, so one sample does, too."""
    torch.manual_seed(0)
    A, W = torch.randn(6, 16), torch.randn(16, 10)
    c = torch.randn(22_000, 6)
    mean = torch.tanh(c @ A) @ W  # E[z|c]
    z = mean + 2 * torch.randn(len(c), 10)

    # The first 20,000 pairs are for training: what train.py does, without its comforts.
    translator = Translator(6, 10, width=96, layers=5)
    translator.fit(moments([(c[:20_000], z[:20_000])]))
    optimizer = torch.optim.AdamW(translator.parameters(), 3e-3)
    for _ in range(steps):
        i = torch.randint(20_000, (256,))
        loss = translator.loss(c[i], z[i], draw_noise(256, 10, 1000))[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    # gamma is chosen on other pairs than those it is scored on.
    validation, test = slice(20_000, 21_000), slice(21_000, 22_000)
    cM, F = translator.terms(c[validation], K=16)
    gamma = best_gamma(cM, F, z[validation] * translator.z_scale)

    cM, F = translator.terms(c[test], K=16)
    rows = {
        "c M alone": cM,
        "F alone, one sample": translator.terms(c[test], K=1)[1],
        "F alone": F,
        "z_hat, gamma = 1": cM + F,
        f"z_hat, gamma = {gamma:.1f}": cM + gamma * F,
        "the true E[z|c]": mean[test],
    }
    for name, z_hat in rows.items():
        print(f"{name:24}{fn.cosine_similarity(z_hat, z[test]).mean():.3f}")


if __name__ == "__main__":
    demo()
