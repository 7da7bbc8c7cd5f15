"""
ddim_translator.py: from a condition latent c to a target latent z: a linear map plus a DDIM.

Papers   [MT]      Lee, Lee, Pak, Kim, "Modality Translation through Conditional Encoder-Decoder"
         [DDIM]    Song, Meng, Ermon, "Denoising Diffusion Implicit Models", arXiv 2010.02502
         [CFG]     Ho, Salimans, "Classifier-Free Diffusion Guidance", arXiv 2207.12598
         [diffae]  Preechakul et al., "Diffusion Autoencoders", arXiv 2111.15640: the backbone
Computes z_hat = c M + gamma F(c),   F(c) = Normalize(CDIM(c)),   CDIM = DDIM sampler of eps_theta
Map      make_alpha    alpha_t, the cumulative product; alpha_0 = 1
         noised        z_0 -> z_t                                                MT Eq. 1
         ddim_step     z_t -> z_s, one step cleaner                              MT Eq. 3*
         guide         (1 + omega) e_c - omega e_0                               MT Eq. 4
         gamma_star    the best gamma of one sample, in closed form; best_gamma of many
         EpsTheta      the network: 10 MLP layers, skips, c injected by residual connections
         Translator    M; the losses, MT Eq. 2*, 8*, 9; F, MT Eq. 6*; z_hat, MT Eq. 5
Letters  B batch   h1 = dim c   h2 = dim z   T steps: t = 0 is clean, t = T is noise
         S DDIM steps at sampling   K samples averaged
Differs  a star marks an equation we changed: "Differences from the papers" in README.md says why
Try      python ddim_translator.py        a toy pair with a known answer, 10 s on one core
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as fn
from torch import nn

# ---------------------------------------------------------------------------------------------
# Diffusion: the schedule, one step forward, one step back


def make_alpha(T=1000):
    """alpha_t = prod_{s <= t} (1 - beta_s), (T + 1,) float64; others write alpha-bar.

    beta is constant, 0.008 at T = 1000: diffae's schedule for latents, noisier at most t than
    DDPM's linear one. It is scaled by 1000 / T at other T, so that alpha_T stays near 0: unscaled,
    T = 50 would stop at alpha_T = 0.67, mostly signal.
    Raises ValueError for T < 9: beta would reach 1."""
    if T < 9:
        raise ValueError(f"T = {T}: the schedule needs T > 8, for beta = 8 / T must be below 1")
    return (1 - 8 / T) ** torch.arange(T + 1, dtype=torch.float64)


def noised(z_0, eps, alpha_t):
    """z_t = sqrt(alpha_t) z_0 + sqrt(1 - alpha_t) eps; z_0, eps (B, h2), alpha_t (B, 1)."""
    return alpha_t.sqrt() * z_0 + (1 - alpha_t).sqrt() * eps  # MT Eq. 1


def ddim_step(z_t, z0_hat, alpha_t, alpha_s, eta=0.0, noise=None):
    """From level alpha_t to the cleaner alpha_s >= alpha_t; z_t, z0_hat, noise (B, h2).

    z_s = sqrt(alpha_s) z0_hat + sqrt(1 - alpha_s - sigma^2) eps_hat + sigma noise   (DDIM Eq. 12)
    eta = 0 is the deterministic DDIM, eta = 1 with single steps DDPM. MT prints sqrt(1 - alpha_t)
    as the second factor: that puts back the noise of the old level, and samples never get clean."""
    eps_hat = (z_t - alpha_t.sqrt() * z0_hat) / (1 - alpha_t).sqrt()
    sigma = eta * ((1 - alpha_s) / (1 - alpha_t) * (1 - alpha_t / alpha_s)).sqrt()
    kept = (1 - alpha_s - sigma**2).clamp(min=0).sqrt()
    z_s = alpha_s.sqrt() * z0_hat + kept * eps_hat  # MT Eq. 3*
    return z_s if eta == 0 else z_s + sigma * noise


def guide(e_c, e_0, omega):
    """Classifier-free guidance: omega = 0 is conditional, -1 unconditional.

    The guidance_scale of diffusers is 1 + omega."""
    return (1 + omega) * e_c - omega * e_0  # MT Eq. 4


def gamma_star(cM, F, z):
    """The gamma >= 0 with the best cosine of z and cM + gamma F; all (N, h2), rows of F unit.

    With a = |cM|, c1 = cos(z, cM), q = cos(z, F), kappa = cos(cM, F):
        gamma* = a (q - c1 kappa) / (c1 - q kappa)
    Exact for one row; for N rows, the formula at the four means. q <= c1 kappa: F does not help,
    gamma* = 0. c1 <= q kappa: c M does not, and gamma* is as large as the floor 1e-3 lets it be."""
    u = fn.normalize(cM, dim=1)
    a, c1 = cM.norm(dim=1).mean(), fn.cosine_similarity(z, u).mean()
    q, kappa = fn.cosine_similarity(z, F).mean(), (u * F).sum(1).mean()
    return (a * (q - c1 * kappa).clamp(min=0) / (c1 - q * kappa).clamp(min=1e-3)).item()


def best_gamma(cM, F, z):
    """What `--gamma auto` takes: the best mean cosine at 0 and 41 points around gamma_star.

    gamma_star is exact for one sample; over samples whose |cM| and cos(z, F) differ, the maximum of
    the mean lies elsewhere: on glyphs at 1.5 times, worth 0.0005 (theory/gamma.py, G9)."""
    grid = gamma_star(cM, F, z) * 4 ** torch.linspace(-1, 1, 41)  # within a factor 4
    score = lambda gamma: fn.cosine_similarity(z, cM + gamma * F).mean().item()
    return max([0.0, *grid.tolist()], key=score)


# ---------------------------------------------------------------------------------------------
# The network


def time_embedding(t, dim=64):
    """Sinusoids of the step number, cosines first as in diffae: t (B,) -> (B, dim)."""
    freq = torch.exp(-math.log(10000) * torch.arange(dim // 2, device=t.device) / (dim // 2))
    angle = t[:, None].float() * freq  # (B, dim/2)
    return torch.cat([angle.cos(), angle.sin()], 1)


class Layer(nn.Module):
    """Linear, scaled by time, plus a projection of c (the residual connection that injects it);
    then LayerNorm, SiLU, dropout."""

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
    """The latent DDIM of diffae, an MLP that meets z_t again at every layer, with c added (MT 4.3).

    z_t (B, h2), t (B,) integers in 1..T, c (B, h1), keep (B,) bool or None -> (B, h2).
    Where keep is False the learned phi stands for c: that is MT Eq. 4's unconditional network.
    The name is the paper's; Translator.predict says whether the output is eps, z_0 or v."""

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
            h = layer(torch.cat([h, z_t], 1), emb, c)  # (B, width + h2) -> (B, width)
        return self.last(torch.cat([h, z_t], 1))  # (B, h2)


# ---------------------------------------------------------------------------------------------
# The translator


class Noise(NamedTuple):
    """All that is random in a training step: it can be repeated, split over devices, and tested."""

    t: torch.Tensor  # (B,) in 1..T; every eighth is T, where L_recon is measured
    eps: torch.Tensor  # (B, h2)   the noise of Eq. 1
    keep: torch.Tensor  # (B,) bool; False with probability p: c is replaced by phi


ROWS_AT_T = 8  # every eighth row of a batch is at t = T


def draw_noise(B, h2, T, p=0.05, generator=None):
    """The Noise of one batch, drawn on the CPU: the same numbers for any device or process."""
    t = torch.randint(1, T + 1, (B,), generator=generator)
    t[::ROWS_AT_T] = T
    keep = torch.rand(B, generator=generator) >= p
    return Noise(t, torch.randn(B, h2, generator=generator), keep)


class Translator(nn.Module):
    """One direction, c -> z. Two of them are the paper's conditional encoder and decoder.

    predict    what the network outputs: "z_0" (our default), "eps" (the paper's), or
               "v" = sqrt(alpha) eps - sqrt(1 - alpha) z_0
    objective  "joint": M is trained by Eq. 9 and the DDIM models z, as printed;
               "residual": M is least squares, frozen, and the DDIM models z - c M (Lemma 1)

    Three units. Raw: what fit, loss, sample and forward take, and sample and forward return.
    Scaled: c becomes (c - mean) c_scale, and z becomes z z_scale, where its mean square per
    coordinate, about the training mean, is 1; one number leaves cosines alone. There |z - mean| is
    about sqrt(h2), and that is gamma's unit; `c M` is M of the scaled c, plus a bias.
    The diffusion's: (scaled z - centre(c)) r_scale, which has mean 0 and mean square 1."""

    def __init__(
        self, h1, h2, width=2048, layers=10, dropout=0.0, T=1000, predict="z_0", objective="joint"
    ):
        super().__init__()
        if predict not in ("z_0", "eps", "v"):
            raise ValueError(f"predict = {predict!r}: choose z_0, eps or v")
        if objective not in ("joint", "residual"):
            raise ValueError(f"objective = {objective!r}: choose joint or residual")
        self.h1, self.h2, self.T, self.predict, self.objective = h1, h2, T, predict, objective
        self.net = EpsTheta(h1, h2, width, layers, dropout)
        self.M = nn.Linear(h1, h2)
        self.register_buffer("alpha", make_alpha(T).float())
        self.register_buffer("c_mean", torch.zeros(h1))
        self.register_buffer("z_mean", torch.zeros(h2))
        for name in ("c_scale", "z_scale", "r_scale"):
            self.register_buffer(name, torch.ones(()))

    # -- measured once, in closed form, before training

    def fit(self, chunks):
        """Means and scales of the training pairs; for "residual" also M, solved and frozen.

        chunks: iterable of raw (c, z), float32 (n, h1) and (n, h2). One pass of float64 sums, so
        memory does not grow with the data. Call it before moving to another device."""
        h1, h2, n = self.h1, self.h2, 0
        G = torch.zeros(h1 + 1, h1 + 1 + h2, dtype=torch.float64)  # [c 1]' [c 1 z]
        zz = torch.zeros(h2, dtype=torch.float64)
        for c, z in chunks:
            c_one = torch.cat([c, torch.ones(len(c), 1)], 1).double()
            G += c_one.T @ torch.cat([c_one, z.double()], 1)
            zz += z.double().square().sum(0)
            n += len(c)
        c_mean, z_mean = G[h1, :h1] / n, G[h1, h1 + 1 :] / n
        c_var, z_var = G.diagonal()[:h1] / n - c_mean**2, zz / n - z_mean**2
        self.c_mean.copy_(c_mean), self.z_mean.copy_(z_mean)
        self.c_scale.copy_(c_var.mean().rsqrt()), self.z_scale.copy_(z_var.mean().rsqrt())
        if self.objective == "residual":
            CC = G[:h1, :h1] / n - torch.outer(c_mean, c_mean)
            CZ = G[:h1, h1 + 1 :] / n - torch.outer(c_mean, z_mean)
            self._solve_M(CC, CZ, z_var)

    @torch.no_grad()
    def _solve_M(self, CC, CZ, z_var):
        """Least squares with a bias, from covariances (h1, h1), (h1, h2); r_scale for z - c M."""
        s_c, s_z = self.c_scale.double(), self.z_scale.double()
        CC, CZ = CC * s_c**2 + 1e-6 * torch.eye(self.h1), CZ * s_c * s_z
        M = torch.linalg.solve(CC, CZ)  # MT Eq. 13*
        left = (z_var.sum() * s_z**2 - (M * CZ).sum()).clamp(min=1e-9) / self.h2
        self.M.weight.copy_(M.T), self.M.bias.copy_(self.z_mean * self.z_scale)
        self.M.requires_grad_(False)
        self.r_scale.copy_(left.rsqrt())

    # -- units

    def scale_c(self, c):
        if c.ndim != 2 or c.shape[1] != self.h1:
            raise ValueError(f"c has shape {tuple(c.shape)}: this translator takes (B, {self.h1})")
        return (c - self.c_mean) * self.c_scale

    def centre(self, c):
        """What the diffusion need not model, in scaled units: the mean of z, or c M."""
        return self.z_mean * self.z_scale if self.objective == "joint" else self.M(c)

    # -- the network's output and what it means

    def z0_of(self, out, z_t, alpha_t):
        if self.predict == "eps":
            return (z_t - (1 - alpha_t).sqrt() * out) / alpha_t.sqrt()
        return alpha_t.sqrt() * z_t - (1 - alpha_t).sqrt() * out if self.predict == "v" else out

    def target(self, z_0, eps, alpha_t):
        v = alpha_t.sqrt() * eps - (1 - alpha_t).sqrt() * z_0
        return {"z_0": z_0, "eps": eps, "v": v}[self.predict]

    def denoise(self, z_t, t, c, omega=0.0):
        """z0_hat (B, h2) at step t (an int); guided, both networks of Eq. 4 run as one batch.

        Guiding z_0 or v is guiding eps: they are affine in it, and 1 + omega - omega = 1."""
        alpha_t, B = self.alpha[t], len(c)
        if omega == 0:
            out = self.net(z_t, torch.full((B,), t, device=c.device), c)
        else:
            t = torch.full((2 * B,), t, device=c.device)
            keep = torch.arange(2 * B, device=c.device) < B
            e_c, e_0 = self.net(z_t.repeat(2, 1), t, c.repeat(2, 1), keep).chunk(2)
            out = guide(e_c, e_0, omega)
        return self.z0_of(out.to(z_t.dtype), z_t, alpha_t)

    def ddim_sample(self, c, start, steps=10, omega=0.0, eta=0.0, randn=torch.randn):
        """CDIM(c): DDIM from the noise `start` (B, h2) in S = steps steps to a sample of z_0."""
        z_t = start
        levels = torch.linspace(self.T, 0, steps + 1).round().long().tolist()  # T, ..., 0
        for t, s in zip(levels[:-1], levels[1:], strict=True):
            z0_hat = self.denoise(z_t, t, c, omega)
            noise = randn(z_t.shape, device=z_t.device) if eta else None
            z_t = ddim_step(z_t, z0_hat, self.alpha[t], self.alpha[s], eta, noise)
        return z_t

    def F(self, z_0, c):
        """Normalize of z_0, a sample or the mean of K, in scaled units.

        The mean is put back first: cosines are about z, not z - mean. Under "residual" there is
        none to put back: F is the direction of the residual."""
        mean = self.centre(c) if self.objective == "joint" else 0.0
        return fn.normalize(z_0 / self.r_scale + mean, dim=1)  # MT Eq. 6*

    # -- training

    def loss(self, c, z, noise, gamma=1.0, lam1=1.0, lam2=2.0, recon_steps=1):
        """MT Eq. 9 of raw latents (B, h1), (B, h2): (loss, L_recon, L_ddim), means of numbers.

        recon_steps says how z_hat is made inside L_recon, of which MT is silent:
        1   z_0 estimated in one step on every eighth row, whose t is T: no leak to speak of
        n   n DDIM steps from the same noise, with the gradient through all of them
        0   z_0 estimated in one step from each row's own t: a small t shows F the answer"""
        c, z = self.scale_c(c), z * self.z_scale
        z_0 = (z - self.centre(c)) * self.r_scale
        alpha_t = self.alpha[noise.t][:, None]  # (B, 1)
        z_t = noised(z_0, noise.eps, alpha_t)
        out = self.net(z_t, noise.t, c, noise.keep).to(z.dtype)
        L_ddim = (self.target(z_0, noise.eps, alpha_t) - out).square().mean()  # MT Eq. 2*
        if lam1 == 0:
            return lam2 * L_ddim, torch.zeros_like(L_ddim), L_ddim
        rows = slice(None, None, ROWS_AT_T if recon_steps else 1)
        if recon_steps <= 1:
            z0_hat = self.z0_of(out, z_t, alpha_t)[rows]
        else:
            z0_hat = self.ddim_sample(c[rows], noise.eps[rows], recon_steps)
        z_hat = self.M(c[rows]).to(z.dtype) + gamma * self.F(z0_hat, c[rows])
        L_recon = (z[rows] - z_hat).abs().mean()  # MT Eq. 8*
        return lam1 * L_recon + lam2 * L_ddim, L_recon, L_ddim  # MT Eq. 9

    # -- inference

    def average_samples(self, c, K=1, steps=10, omega=0.0, eta=0.0, randn=torch.randn):
        """The mean of K samples, in the diffusion's units, for scaled c; K B rows in one batch."""
        start = randn((K * len(c), self.h2), device=c.device)
        z_0 = self.ddim_sample(c.repeat(K, 1), start, steps, omega, eta, randn)
        return z_0.view(K, len(c), self.h2).mean(0)

    @torch.no_grad()
    def sample(self, c, **how):
        """A sample of p(z|c), or the mean of K: raw c (B, h1) -> raw z (B, h2)."""
        c = self.scale_c(c)
        return (self.average_samples(c, **how) / self.r_scale + self.centre(c)) / self.z_scale

    @torch.no_grad()
    def terms(self, c, K=8, **how):
        """(c M, F(c)) in scaled units, both (B, h2), for raw c (B, h1).

        K samples are averaged before Normalize: in cosine one sample of p(z|c) scores R^2 where
        the mean direction scores R."""
        c = self.scale_c(c)
        return self.M(c), self.F(self.average_samples(c, K, **how), c)

    def forward(self, c, gamma=1.0, **how):
        """z_hat = c M + gamma F(c): raw c (B, h1) -> raw z_hat (B, h2); `how` as for terms()."""
        cM, F = self.terms(c, **how)
        return (cM + gamma * F) / self.z_scale  # MT Eq. 5


def demo(steps=600):
    """z = tanh(c A) B + noise, whose conditional mean is known. Prints cosines on fresh pairs."""
    torch.manual_seed(0)
    A, B = torch.randn(6, 16), torch.randn(16, 10)
    mean = lambda c: torch.tanh(c @ A) @ B
    c = torch.randn(22_000, 6)
    z = mean(c) + 2 * torch.randn(len(c), 10)
    translator = Translator(6, 10, width=96, layers=5)
    translator.fit([(c[:20_000], z[:20_000])])
    optimizer = torch.optim.AdamW(translator.parameters(), 3e-3)
    for _ in range(steps):
        i = torch.randint(20_000, (256,))
        loss = translator.loss(c[i], z[i], draw_noise(256, 10, 1000))[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    held = slice(20_000, 21_000)  # gamma is chosen on other pairs than those it is scored on
    gamma = best_gamma(*translator.terms(c[held], K=16), z[held] * translator.z_scale)
    c, z = c[21_000:], z[21_000:]
    cM, F = translator.terms(c, K=16)
    rows = {"c M alone": cM, "F alone, one sample": translator.terms(c, K=1)[1], "F alone": F}
    rows |= {"z_hat, gamma = 1": cM + F, f"z_hat, gamma = {gamma:.1f}": cM + gamma * F}
    for name, z_hat in {**rows, "the true E[z|c]": mean(c)}.items():
        print(f"{name:24}{fn.cosine_similarity(z_hat, z).mean():.3f}")


if __name__ == "__main__":
    demo()
