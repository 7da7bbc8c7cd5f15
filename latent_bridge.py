"""
latent_bridge.py
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as fn
from torch import nn

from bridge_networks import ModalityDecoder, ModalityEncoder, Patches, kind_of, make_denoiser


class Kernel:
    """q(z_t | z_0, z_T) = N(a_t z_T + b_t z_0, std_t^2), a base diffusion conditioned on its end.

    Base: z_t = s_t z_0 + s_t rho_t eps. VP: s = exp(-u/2), rho^2 = exp(u) - 1, where
    u(t) = beta_d t^2 / 2 + beta_min t, T = 1. VE: s = 1, rho = t, T = sigma_max."""

    def __init__(self, kind="vp", beta_d=2.0, beta_min=0.1, sigma_max=80.0):
        if kind not in ("vp", "ve"):
            raise ValueError(f"kernel {kind!r}: choose vp or ve")
        self.kind, self.beta_d, self.beta_min = kind, beta_d, beta_min
        self.T = 1.0 if kind == "vp" else sigma_max

    def base(self, t):
        """s_t and rho_t^2. expm1: exp(u) - 1 loses its digits near t = 0."""
        if self.kind == "ve":
            return torch.ones_like(t), t**2
        u = self.beta_d * t**2 / 2 + self.beta_min * t
        return torch.exp(-u / 2), torch.expm1(u)

    def __call__(self, t):
        """(a_t, b_t, std_t) at times t in [0, T], float64, of t's shape.

        a = s rho^2 / (s_T rho_T^2),  b = s (1 - q),  std = s rho sqrt(1 - q),  q = rho^2 / rho_T^2,
        so a = 0, b = 1 at t = 0; a = 1, b = 0 at t = T; std = 0 at both ends."""
        t = torch.as_tensor(t, dtype=torch.float64)
        s, rho2 = self.base(t)
        s_T, rho2_T = self.base(torch.full_like(t, self.T))
        q = rho2 / rho2_T
        return s / s_T * q, s * (1 - q), s * (rho2 * (1 - q)).sqrt()  # DDBM kernel

    def rates(self, t):
        """Time derivatives of (a_t, b_t, std_t) at 0 < t < T, float64."""
        t = torch.as_tensor(t, dtype=torch.float64)
        s, rho2 = self.base(t)
        s_T, rho2_T = self.base(torch.full_like(t, self.T))
        du = self.beta_d * t + self.beta_min
        ds, drho2 = (0 * t, 2 * t) if self.kind == "ve" else (-s * du / 2, (1 + rho2) * du)
        q, dq, w = rho2 / rho2_T, drho2 / rho2_T, rho2 * (1 - rho2 / rho2_T)
        dw = drho2 * (1 - 2 * q)
        return (
            (ds * q + s * dq) / s_T,
            ds * (1 - q) - s * dq,
            ds * w.sqrt() + s * dw / (2 * w.sqrt()),
        )

    def g2(self, t):
        """g(t)^2, the squared diffusion coefficient of the base process."""
        return self.beta_d * t + self.beta_min if self.kind == "vp" else 2 * t


def time_grid(S, T, kind="uniform", rho=7, t_min=1e-4):
    """S + 1 times from T to 0: T, just below it, ..., 0; S network evaluations, at all but 0."""
    if kind == "uniform":
        inner = torch.linspace(T * (1 - 1e-3), 0, S, dtype=torch.float64)
    else:
        ends = [(T * x) ** (1 / rho) for x in (1 - 1e-3, t_min)]
        inner = torch.linspace(*ends, S, dtype=torch.float64) ** rho
    inner[-1] = 0
    return [T, *inner.tolist()]


def dbim(denoise, z_T, kernel, times, eta=0.0, order=1, randn=torch.randn):
    """A sample of z_0 given z_T (B, N, D).

    The first step leaves z_T with fresh noise ("booting noise"): there std = 0, and no z_t tells
    the noise from the mean. For eta = 0 this noise is all the chance there is.
    order 2, 3: z0_hat is extrapolated as a polynomial in lambda = ln(b / std), for eta = 0."""
    if order not in (1, 2, 3) or not 0 <= eta <= 1 or (order > 1 and eta):
        raise ValueError(
            f"order {order}, eta {eta}: order 1 with eta in [0, 1], or 2, 3 with eta 0"
        )
    past, z_t = [], z_T
    for t, s in zip(times[:-1], times[1:], strict=True):  # from t to the cleaner s
        z0_hat = denoise(z_t, t)
        (a_t, b_t, std_t), (a_s, b_s, std_s) = kernel(t), kernel(s)
        if t == times[0]:
            z_t = a_s * z_T + b_s * z0_hat + std_s * noise_like(z_T, randn)  # DBIM boot
            continue
        if order > 1 and s > 0:
            past = [((b_t / std_t).log(), z0_hat), *past[: order - 1]]
            moved = std_s * integral(past, (b_s / std_s).log())
            z_t = std_s / std_t * z_t + (a_s - a_t * std_s / std_t) * z_T + moved  # DBIM orders
            continue
        # the noise that keeps the chain Markov (eta = 1): z_T's weight below becomes 0
        omega = eta * (std_s**2 - (std_t * a_s / a_t) ** 2).clamp(min=0).sqrt()
        eps_hat = (z_t - a_t * z_T - b_t * z0_hat) / std_t
        kept = (std_s**2 - omega**2).clamp(min=0).sqrt()
        z_t = a_s * z_T + b_s * z0_hat + kept * eps_hat  # DBIM step
        if eta and s > 0:
            z_t = z_t + omega * noise_like(z_T, randn)
    return z_t


def noise_like(z, randn):
    return randn(z.shape, device=z.device)


def integral(past, lam_s):
    """int exp(lam) z0_hat(lam) dlam from the latest of past = [(lam, z0_hat), ...] to lam_s.

    z0_hat is a polynomial through the one, two or three past values (Newton's form)."""
    (lam, z), *older = past
    h = lam_s - lam
    total = -torch.expm1(-h) * z
    if older:
        d1 = (z - older[0][1]) / (lam - older[0][0])
        if older[1:]:
            d1_old = (older[0][1] - older[1][1]) / (older[0][0] - older[1][0])
            d2 = (d1 - d1_old) / (lam - older[1][0])
            d1 = d1 + d2 * (lam - older[0][0])
            total = total + (h**2 / 2 - h - torch.expm1(-h)) * 2 * d2
        total = total + (h + torch.expm1(-h)) * d1
    return lam_s.exp() * total


def heun(denoise, z_T, kernel, steps=40, churn=0.33, rho=7, t_min=1e-4, randn=torch.randn):
    """DDBM's hybrid sampler: each step a stretch of the reverse SDE, then Heun on the ODE.

    3 steps - 1 network evaluations (2 steps - 1 at churn 0, and then nothing is random)."""
    ends = [(kernel.T * x) ** (1 / rho) for x in (1 - 1e-4, t_min)]
    times = [*(torch.linspace(*ends, steps, dtype=torch.float64) ** rho).tolist(), 0.0]

    def drift(z_t, t):
        """(dz/dt of the ODE: along the kernel's curve, z0_hat and eps_hat held; the score)"""
        a, b, std = kernel(t)
        da, db, dstd = kernel.rates(t)
        z0_hat = denoise(z_t, t)
        eps_hat = (z_t - a * z_T - b * z0_hat) / std
        return da * z_T + db * z0_hat + dstd * eps_hat, -eps_hat / std  # DDBM ODE

    z_t = z_T
    for t, s in zip(times[:-1], times[1:], strict=True):
        if churn:
            m = t + churn * (s - t)
            ode, score = drift(z_t, t)
            kick = math.sqrt(kernel.g2(t) * (t - m)) * noise_like(z_T, randn)
            z_t = z_t + (m - t) * (ode - kernel.g2(t) / 2 * score) + kick  # DDBM SDE
            t = m
        d = drift(z_t, t)[0]
        if s > 0:
            d = (d + drift(z_t + (s - t) * d, s)[0]) / 2
        z_t = z_t + (s - t) * d
    return z_t


class BridgeNoise(NamedTuple):
    """All that is random in a training step."""

    t: torch.Tensor  # (B,) float64 in (0, T]
    eps: torch.Tensor  # (B, N, D)


def draw_bridge_noise(B, N, D, T=1.0, p_T=0.1, generator=None):
    """t uniform, but with probability p_T it is T, where z_t = z_T tells nothing of z_0."""
    t = T * (1e-4 + (1 - 1e-4) * torch.rand(B, generator=generator, dtype=torch.float64))
    t[torch.rand(B, generator=generator) < p_T] = T
    return BridgeNoise(t, torch.randn(B, N, D, generator=generator))


def info_nce(z_0, z_T, tau):
    """-log of the right pair's share among the batch's, both ways, mean; z_0, z_T (B, N, D).

    L = (H(softmax(u v' / tau)) + H(softmax(v u' / tau))) / 2, u, v the latents as unit vectors and
    H the cross-entropy with row i's partner i. LD prints one direction, and no minus sign."""
    u, v = (fn.normalize(z.flatten(1), dim=1) for z in (z_0, z_T))
    logits, mine = u @ v.T / tau, torch.arange(len(u), device=u.device)
    return (fn.cross_entropy(logits, mine) + fn.cross_entropy(logits.T, mine)) / 2


class Bridge(nn.Module):
    """E_y, the denoiser and D_x, with E_x for training: y (B, *y_shape) -> x (B, *x_shape).

    design      the denoiser: a row of LD's ablation, see DESIGNS
    rec         L_rec in place of L_pred: the modality models are autoencoders (D_y is for it alone)
    data_space  no modality models: pixels in patches are the latents, and equal shapes are needed
    Raw items are what Pairs holds. Scaled ones are centred floats of unit size: images in [-1, 1],
    voxels -1 or 1. Losses take raw items; samples are scaled, `unscale` undoes it."""

    def __init__(
        self, y_shape, x_shape, N=16, D=32, width=96, heads=4, layers=2, conv=64,
        kernel="vp", design="mask", tau=0.07, rec=False, data_space=False,
    ):  # fmt: skip
        super().__init__()
        y_shape, x_shape = tuple(y_shape), tuple(x_shape)
        self.kernel, self.tau, self.rec, self.data_space = Kernel(kernel), tau, rec, data_space
        if data_space:
            if y_shape != x_shape or kind_of(x_shape) != "image" or any(n % 4 for n in x_shape[1:]):
                raise ValueError(
                    f"data space: {y_shape} and {x_shape} are not images of one shape with sides "
                    "that are multiples of 4"
                )
            self.E_y = self.E_x = Patches(x_shape)
            self.D_x = Patches(x_shape, back=True)
            N, D = self.E_x.N, self.E_x.D
        else:
            self.E_y, self.E_x = (
                ModalityEncoder(y_shape, N, D, conv),
                ModalityEncoder(x_shape, N, D, conv),
            )
            self.D_x = ModalityDecoder(x_shape, N, D, conv)
            if rec:
                self.D_y = ModalityDecoder(y_shape, N, D, conv)
        self.N, self.D, self.y_shape, self.x_shape = N, D, y_shape, x_shape
        self.net = make_denoiser(design, N, D, width, heads, layers)
        self.register_buffer("moments", torch.tensor([1.0, 1.0, 0.0]))  # E z_0^2, z_T^2, z_0 z_T
        for side in "yx":
            self.register_buffer(side + "_mean", torch.zeros(()))
            self.register_buffer(side + "_scale", torch.ones(()))

    # -- units

    def fit(self, y, x):
        """Measure the units on some raw items, numpy arrays (n, *shape), before training."""
        for name, items in (("y", y), ("x", x)):
            mean, size = {"u": (127.5, 127.5), "b": (0.5, 0.5)}.get(items.dtype.kind, (0, 0))
            if not size:
                mean, size = items.mean(dtype="f8"), max(items.std(dtype="f8"), 1e-12)
            (
                getattr(self, name + "_mean").fill_(mean),
                getattr(self, name + "_scale").fill_(1 / size),
            )

    def scale_y(self, y):
        if tuple(y.shape[1:]) != self.y_shape:
            raise ValueError(f"y has shape {tuple(y.shape)}: this bridge starts at {self.y_shape}")
        return (y.float() - self.y_mean) * self.y_scale

    def scale_x(self, x):
        if tuple(x.shape[1:]) != self.x_shape:
            raise ValueError(f"x has shape {tuple(x.shape)}: this bridge leads to {self.x_shape}")
        return (x.float() - self.x_mean) * self.x_scale

    def unscale(self, x):
        return x / self.x_scale + self.x_mean

    def latents(self, y, x):
        """(z_T, z_0), both (B, N, D), of raw items. Each token has mean 0 and mean square 1."""
        return self.normed(self.E_y(self.scale_y(y))), self.normed(self.E_x(self.scale_x(x)))

    def normed(self, z):
        """Tokens of mean 0 and mean square 1; in data space they stay pixels."""
        return z if self.data_space else fn.layer_norm(z, (self.D,))

    # -- the preconditioned denoiser

    def precondition(self, t):
        """(c_skip, c_out, c_in), float64, of t's shape, from the measured second moments.

        A = E z_t^2 = a^2 E z_T^2 + b^2 E z_0^2 + 2 a b E z_0 z_T + std^2;   c_in = A^{-1/2}
        c_skip z_t is the best linear guess of z_0, and c_out the error that it leaves."""
        a, b, std = self.kernel(t)
        m_0, m_T, m_0T = self.moments.double().to(t.device)
        A = a**2 * m_T + b**2 * m_0 + 2 * a * b * m_0T + std**2
        c_out = ((a**2 * (m_0 * m_T - m_0T**2) + m_0 * std**2) / A).clamp(min=1e-12).sqrt()
        return (b * m_0 + a * m_0T) / A, c_out, A.rsqrt()  # DDBM preconditioning

    def denoise(self, z_t, t, memory):
        """z0_hat = c_skip z_t + c_out F(c_in z_t, 250 ln t, memory); z_t (B, N, D), t (B,)."""
        c_skip, c_out, c_in = (c[:, None, None].to(z_t.dtype) for c in self.precondition(t))
        F = self.net(c_in * z_t, 250 * t.log(), memory)
        return c_skip * z_t + c_out * F.to(z_t.dtype)

    # -- training

    def noised(self, z_0, z_T, noise):
        a, b, std = (c[:, None, None].to(z_0.dtype) for c in self.kernel(noise.t))
        return a * z_T + b * z_0 + std * noise.eps

    @torch.no_grad()
    def measure(self, z_0, z_T):
        """Running second moments for the preconditioning, over about the last 100 batches."""
        now = torch.stack([(u * v).float().mean() for u, v in ((z_0, z_0), (z_T, z_T), (z_0, z_T))])
        if now.isfinite().all():  # fp16 overflows now and then
            self.moments.lerp_(now, 0.01)

    def freeze(self, turn):
        """The side whose turn it is not does not move: see `loss`."""
        for name, p in self.named_parameters():
            ours = name.startswith("net.")
            p.requires_grad_(turn == "both" or ours == (turn == "bridge"))

    def loss(self, y, x, noise, turn="both", w_pred=1.0, w_nce=1.0, gather=None):
        """(what is minimised, L_bridge, L_pred, L_infoNCE) of raw items; 0 for a part not asked.

        Every turn lowers the same L as far as it can with the other side frozen:
        "bridge"    L_bridge + L_pred move the denoiser; E_x, E_y, D_x stay
        "modality"  L_pred + L_infoNCE move E_x, E_y, D_x, through the denoiser, which stays
        "both"      everything at once
        "apart"     L_rec + L_infoNCE move E_x, E_y, D_x: the first of two steps
        gather collects the latents of all processes: their items too are negatives and measured."""
        self.freeze(turn)
        with torch.set_grad_enabled(turn != "bridge"):
            z_T, z_0 = self.latents(y, x)
        everyone = (gather(z_0), gather(z_T)) if gather else (z_0, z_T)
        self.measure(*everyone)
        L_bridge = L_pred = L_nce = torch.zeros((), device=z_0.device)
        z0_hat = None
        if turn in ("bridge", "both"):
            z0_hat = self.estimate(z_0.detach(), z_T, noise)  # detached, else z_0 would collapse
            L_bridge = self.bridge_loss(z0_hat, z_0.detach(), noise)
        if turn == "apart" or (self.rec and turn != "bridge"):
            L_pred = self.rec_loss(z_0, z_T, y, x)
        elif not (self.rec or self.data_space):
            if turn != "bridge":
                z0_hat = self.estimate(z_0, z_T, noise)
            L_pred = (self.D_x(z0_hat) - self.scale_x(x)).square().mean()  # LD L_pred*
        if w_nce and turn != "bridge":
            L_nce = info_nce(*everyone, self.tau)  # LD L_infoNCE*
        return L_bridge + w_pred * L_pred + w_nce * L_nce, L_bridge, L_pred, L_nce  # LD L

    def estimate(self, z_0, z_T, noise):
        """B, one step of denoising from z_t ~ q(z_t | z_0, z_T); at t = T it is B(z_T)."""
        return self.denoise(self.noised(z_0, z_T, noise), noise.t, self.net.remember(z_T))

    def bridge_loss(self, z0_hat, z_0, noise):
        """E |z0_hat - z_0|^2 / c_out^2: the score's loss, with weights that make all t alike."""
        c_out = self.precondition(noise.t)[1][:, None, None].to(z_0.dtype)
        return ((z0_hat - z_0) / c_out).square().mean()  # LD L_bridge*

    def rec_loss(self, z_0, z_T, y, x):
        """d(D_x(E_x(x)), x), and under `rec` the same for y: LD's ablation."""
        L = (self.D_x(z_0) - self.scale_x(x)).square().mean()
        return L + (self.D_y(z_T) - self.scale_y(y)).square().mean() if self.rec else L

    # -- inference

    @torch.no_grad()
    def sample(self, y, steps=10, sampler="dbim", eta=0.0, order=1, times="uniform", churn=0.33,
               randn=torch.randn):  # fmt: skip
        """(scaled x_hat (B, *x_shape), NFE) from raw y; steps = 1: the regressor D_x(B(z_T, T))."""
        z_T = self.normed(self.E_y(self.scale_y(y)))
        memory, nfe = self.net.remember(z_T), 0

        def denoise(z_t, t):
            nonlocal nfe
            nfe += 1
            t = torch.full((len(z_t),), t, dtype=torch.float64, device=z_t.device)
            return self.denoise(z_t, t, memory)

        if sampler == "heun":
            z_0 = heun(denoise, z_T, self.kernel, steps, churn, randn=randn)
        else:
            z_0 = dbim(
                denoise, z_T, self.kernel, time_grid(steps, self.kernel.T, times), eta, order, randn
            )
        return self.D_x(z_0), nfe

    @torch.no_grad()
    def reconstruct(self, x):
        """D_x(E_x(x)), scaled: the ceiling of every sample."""
        return self.D_x(self.normed(self.E_x(self.scale_x(x))))


def demo(draws=20_000):
    """z_0 given z_T = 1 is N(0.6, 0.4^2): the best denoiser is known. Mean and std of samplers."""
    z_T, m, s = torch.ones(draws, 1, 1), 0.6, 0.4
    variants = {f"DBIM order {k}, {g}": (g, k, 0) for g in ("uniform", "karras") for k in (1, 2, 3)}
    variants |= {f"DBIM eta 1, {g}": (g, 1, 1.0) for g in ("uniform", "karras")}
    show = lambda z: f"{z.mean():12.3f} +- {z.std():.3f}"
    for kind in ("vp", "ve"):
        kernel = Kernel(kind)

        def denoise(z_t, t, kernel=kernel):
            """E[z_0 | z_t, z_T], two Gaussians multiplied; at t = T there is only the prior."""
            a, b, std = kernel(t)
            if t == kernel.T:
                return torch.full_like(z_t, m)
            return (m * std**2 + s**2 * b * (z_t - a * z_T)) / (std**2 + s**2 * b**2)

        print(f"\n{kind}: the answer is 0.600 +- 0.400 {'NFE 10':>10}{'20':>17}{'100':>19}")
        for name, (g, order, eta) in variants.items():
            how = dict(eta=eta, order=order)
            draws = [
                dbim(denoise, z_T, kernel, time_grid(S, kernel.T, g), **how) for S in (10, 20, 100)
            ]
            print(f"{name:24}" + "".join(map(show, draws)))
        for n, churn in ((4, 0.33), (40, 0.33), (40, 0.0)):
            name = f"Heun, churn {churn}, NFE {(3 if churn else 2) * n - 1}"
            print(f"{name:24}" + show(heun(denoise, z_T, kernel, n, churn)))


if __name__ == "__main__":
    demo()
