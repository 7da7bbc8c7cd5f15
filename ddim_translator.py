"""
ddim_translator.py: from a condition latent c to a target latent z, by a linear map and a conditional DDIM.

Papers   [MT]      Lee, Lee, Pak, Kim, "Modality Translation through Conditional Encoder-Decoder"
         [DDIM]    Song, Meng, Ermon, "Denoising Diffusion Implicit Models", arXiv 2010.02502
         [CFG]     Ho, Salimans, "Classifier-Free Diffusion Guidance", arXiv 2207.12598
         [diffae]  Preechakul et al., "Diffusion Autoencoders", arXiv 2111.15640: the network's shape
Computes z_hat = c M + gamma F(c),   F(c) = Normalize(CDIM(c)),   CDIM = DDIM sampler of eps_theta
Map      make_alpha    alpha_t, the cumulative product; alpha_0 = 1
         noised        z_t from z_0                                                      MT Eq. 1
         ddim_step     z_t -> z_s                                                        MT Eq. 3*
         guide         (1 + omega) e_c - omega e_0                                       MT Eq. 4
         gamma_star    the best gamma in closed form
         EpsTheta      the network: 10 MLP layers, skips, c injected by residual connections
         Translator    M, the losses (MT Eq. 2*, 8, 9), F (MT Eq. 6), z_hat (MT Eq. 5)
Letters  B batch   h1 = dim c   h2 = dim z   T steps: t = 0 clean ... t = T noise   S DDIM steps   K samples
Differs  a star marks an equation that we changed: see "Differences from the papers" in README.md
Try      python ddim_translator.py     a toy pair with a known answer, 20 s on one core
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as fn
from torch import nn

# ---------------------------------------------------------------------------------------------
# Diffusion: the schedule, one step forward, one step back


def make_alpha(T=1000):
    """alpha_t = prod_{s <= t} (1 - beta_s), (T + 1,) float64, alpha[0] = 1; others write alpha-bar.

    beta is linear from 1e-4 to 0.02 (Ho et al. 2020) for T = 1000 and scaled by 1000 / T otherwise, so that
    alpha_T stays near 4e-5. Without the scaling T = 50 would stop at alpha_T = 0.60: still mostly signal.
    Raises ValueError for T < 20, where the largest beta would reach 1."""
    if T < 21:
        raise ValueError(
            f"T = {T}: the linear schedule needs T > 20 (beta_T = 20 / T must be below 1)"
        )
    beta = torch.linspace(1e-4, 0.02, T, dtype=torch.float64) * (1000 / T)
    return torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - beta, 0)])


def noised(z_0, eps, alpha_t):
    """z_t = sqrt(alpha_t) z_0 + sqrt(1 - alpha_t) eps; z_0, eps (B, h2), alpha_t (B, 1)."""
    return alpha_t.sqrt() * z_0 + (1 - alpha_t).sqrt() * eps  # MT Eq. 1


def ddim_step(z_t, z0_hat, alpha_t, alpha_s, eta=0.0, noise=None):
    """One step from level alpha_t to the cleaner level alpha_s >= alpha_t, all (B, h2), alphas 0-dim.

    z_s = sqrt(alpha_s) z0_hat + sqrt(1 - alpha_s - sigma^2) eps_hat + sigma noise       (DDIM Eq. 12)
    eta = 0 is the deterministic DDIM, eta = 1 is DDPM's ancestral sampling. The paper prints the second
    factor as sqrt(1 - alpha_t), which puts back the noise of the old level: its samples never get clean."""
    eps_hat = (z_t - alpha_t.sqrt() * z0_hat) / (1 - alpha_t).sqrt()
    sigma = eta * ((1 - alpha_s) / (1 - alpha_t) * (1 - alpha_t / alpha_s)).sqrt()
    z_s = (
        alpha_s.sqrt() * z0_hat + (1 - alpha_s - sigma**2).clamp(min=0).sqrt() * eps_hat
    )  # MT Eq. 3*
    return z_s if eta == 0 else z_s + sigma * noise


def guide(e_c, e_0, omega):
    """Classifier-free guidance. omega = 0 is conditional, -1 unconditional; diffusers' guidance_scale is 1 + omega."""
    return (1 + omega) * e_c - omega * e_0  # MT Eq. 4


def gamma_star(cM, F, z):
    """The gamma that maximises the mean cosine of z with cM + gamma F, from four means; all (N, h2), F unit rows.

    With a = |cM|, c1 = cos(z, cM), q = cos(z, F), kappa = cos(cM, F):
        gamma* = a (q - c1 kappa) / (c1 - q kappa),  exact for one sample; here for the means over N samples.
    q <= c1 kappa: F does not help, gamma* = 0. c1 <= q kappa: cM does not help, gamma* is so large that F is all."""
    u = fn.normalize(cM, dim=1)
    a, c1 = cM.norm(dim=1).mean(), fn.cosine_similarity(z, u).mean()
    q, kappa = fn.cosine_similarity(z, F).mean(), (u * F).sum(1).mean()
    gain, loss = (q - c1 * kappa).clamp(min=0), (c1 - q * kappa).clamp(min=1e-3)
    return (a * gain / loss).item()


# ---------------------------------------------------------------------------------------------
# The network


def time_embedding(t, dim=64):
    """Sinusoids of the step number: t (B,) -> (B, dim), cosines first (Vaswani et al. 2017; diffae)."""
    freq = torch.exp(-math.log(10000) * torch.arange(dim // 2, device=t.device) / (dim // 2))
    angle = t[:, None].float() * freq  # (B, dim/2)
    return torch.cat([angle.cos(), angle.sin()], 1)


class Layer(nn.Module):
    """Linear -> scaled by time -> plus a projection of c (the residual connection) -> LayerNorm, SiLU, dropout."""

    def __init__(self, width_in, width, h1, dropout):
        super().__init__()
        self.linear = nn.Linear(width_in, width)
        self.from_t = nn.Linear(64, width)
        self.from_c = nn.Linear(h1, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h, emb, c):
        h = self.linear(h) * (1 + self.from_t(emb)) + self.from_c(c)
        return self.dropout(fn.silu(self.norm(h)))


class EpsTheta(nn.Module):
    """The latent DDIM of Diffusion Autoencoders: an MLP that sees z_t again at every layer, with c added (MT 4.3).

    z_t (B, h2), t (B,) integers in 1..T, c (B, h1), keep (B,) bool or None -> (B, h2).
    Where keep is False the learned vector phi stands for c: the unconditional network of MT Eq. 4."""

    def __init__(self, h1, h2, width=2048, layers=10, dropout=0.0):
        super().__init__()
        sizes = [h2] + [width + h2] * (layers - 2)
        self.time = nn.Sequential(nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU())
        self.phi = nn.Parameter(torch.zeros(h1))
        self.layers = nn.ModuleList(Layer(n, width, h1, dropout) for n in sizes)
        self.last = nn.Linear(width + h2, h2)

    def forward(self, z_t, t, c, keep=None):
        if keep is not None:
            c = torch.where(keep[:, None], c, self.phi)
        emb = self.time(time_embedding(t))  # (B, 64)
        h = self.layers[0](z_t, emb, c)  # (B, width)
        for layer in self.layers[1:]:
            h = layer(torch.cat([h, z_t], 1), emb, c)
        return self.last(torch.cat([h, z_t], 1))  # (B, h2)


# ---------------------------------------------------------------------------------------------
# The translator


class Noise(NamedTuple):
    """All that is random in a training step: it can be repeated, split over devices, and tested."""

    t: torch.Tensor  # (B,) in 1..T; the first eighth is T, where L_recon is measured
    eps: torch.Tensor  # (B, h2)   Eq. 1's noise
    keep: torch.Tensor  # (B,) bool: False with probability p, c is replaced by phi


def draw_noise(B, h2, T, p=0.05, generator=None):
    """The Noise of one batch, on the CPU: the same numbers on any device, for any number of them."""
    t = torch.randint(1, T + 1, (B,), generator=generator)
    t[: max(1, B // 8)] = T
    keep = torch.rand(B, generator=generator) >= p
    return Noise(t, torch.randn(B, h2, generator=generator), keep)


class Translator(nn.Module):
    """One direction, c -> z. Two of them are the paper's conditional encoder and decoder.

    predict    what the network outputs: "z_0" (ours), "eps" (the paper's) or "v" = sqrt(alpha) eps - sqrt(1 - alpha) z_0
    objective  "joint": M is trained by Eq. 9 and the DDIM models z, as printed.
               "residual": M is least squares, frozen, and the DDIM models z - c M, as Lemma 1 reads.

    Inside, latents are in *scaled* units: z times one number, so that the mean square per coordinate about the
    training mean is 1 and cosines stay what they were. There |z| is about sqrt(h2), and that is gamma's unit.
    Methods take and return raw latents."""

    def __init__(
        self, h1, h2, width=2048, layers=10, dropout=0.0, T=1000, predict="z_0", objective="joint"
    ):
        super().__init__()
        for name, value, known in (
            ("predict", predict, ("z_0", "eps", "v")),
            ("objective", objective, ("joint", "residual")),
        ):
            if value not in known:
                raise ValueError(f"{name} = {value!r}: choose one of {', '.join(known)}")
        self.h1, self.h2, self.T, self.predict, self.objective = h1, h2, T, predict, objective
        self.net = EpsTheta(h1, h2, width, layers, dropout)
        self.M = nn.Linear(h1, h2)
        self.register_buffer("alpha", make_alpha(T).float())
        for name, size in (("c_mean", h1), ("z_mean", h2)):
            self.register_buffer(name, torch.zeros(size))
        for name in ("c_scale", "z_scale", "r_scale"):
            self.register_buffer(name, torch.ones(()))

    # -- fitted once, in closed form, before training

    def fit(self, chunks):
        """Measure means and scales (and, for "residual", solve and freeze M) over training pairs.

        chunks: iterable of raw (c, z), float32 (n, h1) and (n, h2). One pass of sums in float64, so
        memory does not grow with the data. The least squares has a bias: [c, 1] -> z."""
        h1, h2, n = self.h1, self.h2, 0
        G = torch.zeros(h1 + 1, h1 + 1 + h2, dtype=torch.float64)  # [c 1]' [c 1 z]
        zz = torch.zeros(h2, dtype=torch.float64)
        for c, z in chunks:
            c1 = torch.cat([c, torch.ones(len(c), 1)], 1).double()
            G += c1.T @ torch.cat([c1, z.double()], 1)
            zz += z.double().square().sum(0)
            n += len(c)
        c_mean, z_mean = G[h1, :h1] / n, G[h1, h1 + 1 :] / n
        c_var, z_var = G.diagonal()[:h1] / n - c_mean**2, zz / n - z_mean**2
        self.c_mean.copy_(c_mean), self.z_mean.copy_(z_mean)
        self.c_scale.copy_(c_var.mean().rsqrt()), self.z_scale.copy_(z_var.mean().rsqrt())
        if self.objective == "residual":
            self._solve_M(G, z_var, n)

    def _solve_M(self, G, z_var, n):
        """M_hat = (C'C)^-1 C'Z in scaled units (MT Eq. 13), from centred sums; r_scale makes the residual unit."""
        h1, s_c, s_z = self.h1, self.c_scale.double(), self.z_scale.double()
        c_mean, z_mean = G[h1, :h1] / n, G[h1, h1 + 1 :] / n
        CC = (G[:h1, :h1] / n - torch.outer(c_mean, c_mean)) * s_c**2
        CZ = (G[:h1, h1 + 1 :] / n - torch.outer(c_mean, z_mean)) * s_c * s_z
        M = torch.linalg.lstsq(CC + 1e-6 * torch.eye(h1), CZ).solution  # MT Eq. 13
        residual = (z_var.sum() * s_z**2 - (M * CZ).sum()).clamp(min=1e-9) / self.h2
        with torch.no_grad():
            self.M.weight.copy_(M.T), self.M.bias.copy_(z_mean * s_z)
        self.r_scale.copy_(residual.rsqrt())
        self.M.requires_grad_(False)

    # -- units

    def scale_c(self, c):
        if c.ndim != 2 or c.shape[1] != self.h1:
            raise ValueError(f"c has shape {tuple(c.shape)}: this translator takes (B, {self.h1})")
        return (c - self.c_mean) * self.c_scale

    def centre(self, c):
        """What the diffusion does not have to model, in scaled units: the mean of z, or c M."""
        return self.z_mean * self.z_scale if self.objective == "joint" else self.M(c)

    # -- the network's output, read as an estimate of z_0

    def z0_of(self, out, z_t, alpha_t):
        if self.predict == "eps":
            return (z_t - (1 - alpha_t).sqrt() * out) / alpha_t.sqrt()
        return alpha_t.sqrt() * z_t - (1 - alpha_t).sqrt() * out if self.predict == "v" else out

    def target(self, z_0, eps, alpha_t):
        """What the network should output; Eq. 2 compares the two."""
        v = alpha_t.sqrt() * eps - (1 - alpha_t).sqrt() * z_0
        return {"z_0": z_0, "eps": eps, "v": v}[self.predict]

    def denoise(self, z_t, t, c, omega=0.0):
        """z0_hat (B, h2) at the step t (an int), guided. Both networks of Eq. 4 run as one batch of 2 B.

        Guiding z_0 or v is guiding eps: each is an affine function of it whose weights 1 + omega, -omega sum to 1."""
        alpha_t, B = self.alpha[t], len(c)
        steps = torch.full((B,), t, device=c.device)
        if omega == 0:
            return self.z0_of(self.net(z_t, steps, c).to(z_t.dtype), z_t, alpha_t)
        keep = torch.arange(2 * B, device=c.device) < B
        out = self.net(z_t.repeat(2, 1), steps.repeat(2), c.repeat(2, 1), keep).to(z_t.dtype)
        return self.z0_of(guide(out[:B], out[B:], omega), z_t, alpha_t)

    def cdim(self, c, start, steps=10, omega=0.0, eta=0.0, randn=torch.randn):
        """CDIM(c): DDIM from the noise `start` (B, h2) down S = steps levels -> a sample of z_0 (B, h2)."""
        z_t = start
        levels = torch.linspace(self.T, 0, steps + 1).round().long().tolist()  # T, ..., 0
        for t, s in zip(levels[:-1], levels[1:], strict=True):
            z0_hat = self.denoise(z_t, t, c, omega)
            noise = randn(z_t.shape, device=z_t.device) if eta else None
            z_t = ddim_step(z_t, z0_hat, self.alpha[t], self.alpha[s], eta, noise)
        return z_t

    def F(self, z_0, c):
        """Normalize(CDIM(c)) in scaled units. The mean is put back first: cosines are about z, not
        about z - mean. Under "residual" F is the direction of the residual alone."""
        mean = self.centre(c) if self.objective == "joint" else 0.0
        return fn.normalize(z_0 / self.r_scale + mean, dim=1)  # MT Eq. 6

    # -- training

    def loss(self, c, z, noise, gamma=1.0, lam1=1.0, lam2=2.0, recon_steps=1):
        """MT Eq. 9 on a batch of raw latents: -> (loss, L_recon, L_ddim), 0-dim. Means over numbers.

        recon_steps says how z_hat is made inside L_recon, of which MT is silent:
        1   the estimate of z_0 in one step from t = T, on the rows that have t = T: no leak, no extra work
        n   n DDIM steps from pure noise, with the gradient through all of them, on the same rows
        0   the estimate of z_0 at each row's random t, where a small t shows F the answer"""
        c, z = self.scale_c(c), z * self.z_scale
        z_0 = (z - self.centre(c)) * self.r_scale
        alpha_t = self.alpha[noise.t][:, None]
        z_t = noised(z_0, noise.eps, alpha_t)
        out = self.net(z_t, noise.t, c, noise.keep).to(z_t.dtype)
        L_ddim = (self.target(z_0, noise.eps, alpha_t) - out).square().mean()  # MT Eq. 2*
        z0_hat, rows = self.z0_of(out, z_t, alpha_t), noise.t == self.T
        if recon_steps == 0:
            rows = torch.ones_like(rows)
        elif recon_steps > 1:
            z0_hat = z0_hat.clone()
            z0_hat[rows] = self.cdim(c[rows], noise.eps[rows], recon_steps)
        cM, F = self.M(c).to(z.dtype), self.F(z0_hat, c)
        L_recon = (z - cM - gamma * F).abs().mean(1)[rows].mean()  # MT Eq. 8*
        return lam1 * L_recon + lam2 * L_ddim, L_recon, L_ddim  # MT Eq. 9

    # -- inference

    def draw(self, c, K=1, steps=10, omega=0.0, eta=0.0, randn=torch.randn):
        """The mean of K samples in the diffusion's units, for scaled c, all K B rows as one batch."""
        start = randn((K * len(c), self.h2), device=c.device)
        z_0 = self.cdim(c.repeat(K, 1), start, steps, omega, eta, randn)
        return z_0.view(K, len(c), self.h2).mean(0)

    @torch.no_grad()
    def sample(self, c, **how):
        """A sample of p(z|c), or the mean of K: raw c (B, h1) -> raw z (B, h2)."""
        c = self.scale_c(c)
        return (self.draw(c, **how) / self.r_scale + self.centre(c)) / self.z_scale

    @torch.no_grad()
    def parts(self, c, K=8, **how):
        """(c M, F(c)) in scaled units, both (B, h2), for raw c (B, h1).

        K samples are averaged before Normalize: in cosine one sample of p(z|c) scores R^2 where the
        mean direction scores R (README, "What the numbers mean")."""
        c = self.scale_c(c)
        return self.M(c), self.F(self.draw(c, K, **how), c)

    def forward(self, c, gamma=1.0, **how):
        """z_hat = c M + gamma F(c): raw c (B, h1) -> raw z_hat (B, h2); `how` as for draw()."""
        cM, F = self.parts(c, **how)
        return (cM + gamma * F) / self.z_scale  # MT Eq. 5
