"""
latent_bridge.py: from a source y to a target x of any shapes, by a diffusion bridge of latents.

Papers   [LD]    Berman et al., "Towards General Modality Translation with Contrastive and
                 Predictive Latent Diffusion Bridge" (LDDBM), arXiv 2510.20819, by its poster
         [DDBM]  Zhou et al., "Denoising Diffusion Bridge Models", arXiv 2309.16948
         [DBIM]  Zheng et al., "Diffusion Bridge Implicit Models", arXiv 2405.15885
Computes y -> z_T = E_y(y) -> bridge -> z_0 -> x_hat = D_x(z_0)
Map      Kernel        q(z_t | z_0, z_T): the one place that knows the schedule   DDBM kernel
         dbim          the sampler of few steps                  DBIM boot, DBIM step, DBIM orders
         heun          DDBM's own sampler, the reference                       DDBM ODE, DDBM SDE
         Denoiser      B: a transformer encoder-decoder, its answer read at [MASK] tokens; UNet
         Encoder       E_x, E_y: any array -> tokens;   Decoder: D_x, tokens -> any array
         Bridge        DDBM preconditioning; LD L_bridge*, L_pred*, L_infoNCE*; sampling
Letters  B batch   N tokens   D numbers a token   W width   S steps, or network evaluations (NFE)
         t = 0 is the target, t = T the source
Differs  a star marks an equation we changed: "Differences from the papers" in README.md says why
Try      python latent_bridge.py        a bridge with a known answer: every sampler against it, 10 s
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as fn
from torch import nn

# ---------------------------------------------------------------------------------------------
# The bridge: a diffusion tied to z_0 at t = 0 and to z_T at t = T


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


# ---------------------------------------------------------------------------------------------
# Samplers: `denoise(z_t, t) -> z0_hat` is all they know of the network


def grid(S, T, kind="uniform", rho=7, t_min=1e-4):
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


# ---------------------------------------------------------------------------------------------
# The denoiser


def embed(t, width):
    """Sinusoids of t (B,) -> (B, width)."""
    freq = torch.exp(-math.log(10000) * torch.arange(width // 2, device=t.device) / (width // 2))
    angle = t[:, None].float() * freq  # (B, width/2)
    return torch.cat([angle.cos(), angle.sin()], 1)


def zeros(layer):
    nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
    return layer


class Attention(nn.Module):
    """h (B, N, W) asks, memory (B, M, W) answers -> (B, N, W).

    It starts as a copy from tokens of the same place: keys are made as queries are, and values are
    turned back on the way out. A [MASK] token has no other way to z_t and z_T, and from a random
    start it takes thousands of steps to find it."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        with torch.no_grad():
            k, v = self.kv.weight.chunk(2)
            k.copy_(self.q.weight.mul_(2))
            self.out.weight.copy_(nn.init.orthogonal_(v).T)

    def forward(self, h, memory):
        split = lambda x: x.unflatten(2, (self.heads, -1)).transpose(1, 2)
        q, (k, v) = self.q(h), self.kv(memory).chunk(2, 2)
        h = fn.scaled_dot_product_attention(split(q), split(k), split(v))  # (B, heads, N, W/heads)
        return self.out(h.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Self-attention, cross-attention if there is a memory, MLP: each a residual branch.

    With time, adaLN-zero: time shifts and scales the input of self-attention and MLP and gates
    their outputs; the gates start at 0."""

    def __init__(self, width, heads, time=False, cross=False):
        super().__init__()
        norm = lambda: nn.LayerNorm(width, elementwise_affine=not time)
        self.norm_1, self.attention = norm(), Attention(width, heads)
        self.cross = Attention(width, heads) if cross else None
        self.norm_cross = nn.LayerNorm(width) if cross else None
        hidden = 4 * width
        self.norm_2 = norm()
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.ada = zeros(nn.Linear(width, 6 * width)) if time else None

    def forward(self, h, emb=None, memory=None):
        """h (B, N, W), emb (B, W) of the time, memory (B, M, W)."""
        a1, b1, g1, a2, b2, g2 = 0, 0, 1, 0, 0, 1
        if self.ada is not None:
            a1, b1, g1, a2, b2, g2 = self.ada(emb)[:, None].chunk(6, 2)  # (B, 1, W) each
        x = self.norm_1(h) * (1 + a1) + b1
        h = h + g1 * self.attention(x, x)
        if self.cross is not None:
            h = h + self.cross(self.norm_cross(h), memory)
        return h + g2 * self.mlp(self.norm_2(h) * (1 + a2) + b2)


class Denoiser(nn.Module):
    """LD's transformer encoder-decoder: scaled z_t (B, N, D), c_noise (B,), memory -> (B, N, D).

    remember  tokens of z_T -> memory (B, N, W). It knows no time: once per sample is enough
    forward   tokens of z_t and N learned [MASK] tokens look at each other and at the memory; the
              answer for position i is read at mask i
    The switches are rows of LD's ablation: without `cross`, a DiT whose token i holds z_t and z_T
    at i; without `spatial`, no token knows its place; without `mask`, the answer is read at the
    tokens of z_t (LD: only the [MASK] tokens have learned content)."""

    def __init__(self, N, D, width=96, heads=4, layers=2, cross=True, spatial=True, mask=True):
        super().__init__()
        self.N, self.width = N, width
        learned = lambda n: nn.Parameter(torch.randn(n, width))
        self.embed = nn.Linear(D if cross else 2 * D, width)
        self.embed_T = nn.Linear(D, width) if cross else None
        self.place = learned(N) if spatial else None  # position i, the same in z_T, z_t and masks
        self.mask = learned(1) if mask else None
        linear = lambda: nn.Linear(width, width)
        self.time = nn.Sequential(linear(), nn.SiLU(), linear(), nn.SiLU())
        self.encoder = nn.ModuleList(Block(width, heads) for _ in range(layers * cross))
        depth = layers if cross else 2 * layers
        self.decoder = nn.ModuleList(Block(width, heads, True, cross) for _ in range(depth))
        self.norm_memory = nn.LayerNorm(width) if cross else None
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.ada, self.last = zeros(nn.Linear(width, 2 * width)), zeros(nn.Linear(width, D))

    def placed(self, h):
        return h if self.place is None else h + self.place

    def remember(self, z_T):
        if self.embed_T is None:
            return z_T
        h = self.placed(self.embed_T(z_T))
        for block in self.encoder:
            h = block(h)
        return self.norm_memory(h)

    def forward(self, z, c_noise, memory):
        emb = self.time(embed(c_noise, self.width))  # (B, W)
        h = self.placed(self.embed(z if self.embed_T else torch.cat([z, memory], 2)))  # (B, N, W)
        if self.mask is not None:
            masks = self.placed(self.mask.expand(len(z), self.N, -1))
            h = torch.cat([h, masks], 1)  # (B, 2N, W)
        for block in self.decoder:
            h = block(h, emb, memory)
        shift, scale = self.ada(emb)[:, None].chunk(2, 2)
        return self.last(self.norm(h[:, -self.N :]) * (1 + scale) + shift)  # (B, N, D)


class UNet(nn.Module):
    """The same job by convolutions on the square latent grid: two resolutions and a skip."""

    def __init__(self, N, D, width=96):
        super().__init__()
        self.side, self.width = math.isqrt(N), width
        if self.side**2 != N or self.side % 2:
            raise ValueError(f"{N} tokens: the U-Net needs the square of an even number")
        conv = lambda i, o, stride=1: nn.Conv2d(i, o, 3, stride, 1)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 3 * width))
        self.first, self.down = conv(2 * D, width), conv(width, 2 * width, 2)
        self.mid, self.up = (
            conv(2 * width, 2 * width),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1),
        )
        self.skip, self.last = conv(2 * width, width), zeros(conv(width, D))
        self.norms = nn.ModuleList(nn.GroupNorm(8, w * width) for w in (1, 2, 2, 1))
        self.from_t = nn.ModuleList(nn.Linear(3 * width, w * width) for w in (1, 2, 2, 1))

    def remember(self, z_T):
        return z_T

    def forward(self, z, c_noise, memory):
        emb = fn.silu(self.time(embed(c_noise, self.width)))
        act = lambda h, k: fn.silu(self.norms[k](h) + self.from_t[k](emb)[:, :, None, None])
        h = torch.cat([z, memory], 2).transpose(1, 2).unflatten(2, (self.side, self.side))
        top = act(self.first(h), 0)  # (B, W, side, side)
        h = act(self.mid(act(self.down(top), 1)), 2)  # (B, 2W, side/2, side/2)
        h = act(self.skip(torch.cat([self.up(h), top], 1)), 3)
        return self.last(h).flatten(2).transpose(1, 2)  # (B, N, D)


DESIGNS = ("unet", "dit", "encoder-decoder", "spatial", "mask")  # LD's rows; each adds to the last


def make_denoiser(design, N, D, width=96, heads=4, layers=2):
    """One row of LD's design ablation. Raises ValueError for a name that is not in DESIGNS."""
    if design not in DESIGNS:
        raise ValueError(f"denoiser {design!r}: choose {', '.join(DESIGNS)}")
    if design == "unet":
        return UNet(N, D, width)
    row = DESIGNS.index(design)
    return Denoiser(N, D, width, heads, layers, cross=row > 1, spatial=row > 2, mask=row > 3)


# ---------------------------------------------------------------------------------------------
# Modality-specific modules, chosen by the shape of one item


def kind_of(shape):
    """(n,) vector, (C, H, W) image if C <= 4, else (D, H, W) volume, (V, C, H, W) several views."""
    if len(shape) == 3:
        return "image" if shape[0] <= 4 else "volume"
    if len(shape) not in (1, 4):
        raise ValueError(
            f"items of shape {shape}: expected (n), (C, H, W), (D, H, W), (V, C, H, W)"
        )
    return "vector" if len(shape) == 1 else "views"


def mlp(n_in, n_out, width):
    hidden = 4 * width
    return nn.Sequential(
        *(nn.Linear(n_in, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU()),
        nn.Linear(hidden, n_out),
    )


def as_image(x, shape):
    """(B, *shape) -> (B, C, H, W): several views are channels, and so is a volume's last axis.

    So rows stay rows: the height of a solid in each of its views and in the volume."""
    if kind_of(shape) == "volume":
        return x.movedim(3, 1)
    return x.flatten(1, -3)


def from_image(x, shape):
    return x.movedim(1, 3) if kind_of(shape) == "volume" else x.reshape(len(x), *shape)


def levels(shape, N):
    """(channels C, coarse side g, patch p, halvings n): side of the image = g p 2^n, about."""
    C, *size = as_image(torch.empty(1, *shape), shape).shape[1:]
    g = round(N**0.5)
    fits = lambda p: p * g <= min(size) and not any(n % p for n in size)
    p = max([1, *filter(fits, (2, 3, 4))])  # a patch that does not fit would lose the last pixels
    return C, size, g, p, max(0, round(math.log2(min(size) / p / g)))


class Encoder(nn.Module):
    """Items (B, *shape) -> tokens (B, N, D): E_x or E_y.

    Patches, then convolutions of stride 2 down to g x g = N places: token i is place i. Vectors,
    and numbers of tokens that are no square: a dense layer at the end."""

    def __init__(self, shape, N, D, width=64):
        super().__init__()
        self.shape, self.N, self.vector = shape, N, kind_of(shape) == "vector"
        if self.vector:
            self.dense = mlp(shape[0], N * D, width)
            return
        C, _, g, p, n = levels(shape, N)
        act = lambda: (nn.GroupNorm(8, width), nn.SiLU())
        layers = [nn.Conv2d(C, width, p, p), *act()]
        for _ in range(n):
            layers += [nn.Conv2d(width, width, 4, 2, 1), *act()]
        layers += [nn.Conv2d(width, width, 3, 1, 1), *act(), nn.AdaptiveAvgPool2d(g)]
        self.convs, self.local = nn.Sequential(*layers), g * g == N
        self.dense = nn.Linear(width, D) if self.local else nn.Linear(g * g * width, N * D)

    def forward(self, x):
        if self.vector:
            return self.dense(x).unflatten(1, (self.N, -1))
        h = self.convs(as_image(x, self.shape)).flatten(2).transpose(1, 2)  # (B, g g, W)
        return self.dense(h if self.local else h.flatten(1)).reshape(len(x), self.N, -1)


class Decoder(nn.Module):
    """Tokens (B, N, D) -> items (B, *shape): D_x, an Encoder turned round."""

    def __init__(self, shape, N, D, width=64):
        super().__init__()
        self.shape, self.width, self.vector = shape, width, kind_of(shape) == "vector"
        if self.vector:
            self.dense = mlp(N * D, shape[0], width)
            return
        C, self.size, self.g, p, n = levels(shape, N)
        act = lambda: (nn.GroupNorm(8, width), nn.SiLU())
        self.local = self.g**2 == N
        self.dense = nn.Linear(D, width) if self.local else nn.Linear(N * D, self.g**2 * width)
        layers = [nn.Conv2d(width, width, 3, 1, 1), *act()]
        for _ in range(n):
            layers += [nn.ConvTranspose2d(width, width, 4, 2, 1), *act()]
        layers += [nn.Conv2d(width, width, 3, 1, 1), *act(), nn.ConvTranspose2d(width, C, p, p)]
        self.convs = nn.Sequential(*layers)

    def forward(self, z):
        if self.vector:
            return self.dense(z.flatten(1))
        h = self.dense(z if self.local else z.flatten(1)).reshape(len(z), -1, self.width)
        x = self.convs(h.transpose(1, 2).unflatten(2, (self.g, self.g)))
        if list(x.shape[2:]) != self.size:
            x = fn.interpolate(x, self.size)
        return from_image(x, self.shape)


class Patches(nn.Module):
    """Images as their own latents: (B, C, H, W) -> (B, N, D), D = C p^2, and back. No parameters.

    With it the same bridge runs in data space: DDBM."""

    def __init__(self, shape, patch=4, back=False):
        super().__init__()
        self.H, self.patch, self.back = shape[1] // patch, patch, back
        self.N, self.D = math.prod(shape[1:]) // patch**2, shape[0] * patch**2

    def forward(self, x):
        if self.back:
            return fn.pixel_shuffle(x.transpose(1, 2).unflatten(2, (self.H, -1)), self.patch)
        return fn.pixel_unshuffle(x, self.patch).flatten(2).transpose(1, 2)


# ---------------------------------------------------------------------------------------------
# All of it


class Noise(NamedTuple):
    """All that is random in a training step."""

    t: torch.Tensor  # (B,) float64 in (0, T]
    eps: torch.Tensor  # (B, N, D)


def draw_noise(B, N, D, T=1.0, p_T=0.1, generator=None):
    """t uniform, but with probability p_T it is T, where z_t = z_T tells nothing of z_0."""
    t = T * (1e-4 + (1 - 1e-4) * torch.rand(B, generator=generator, dtype=torch.float64))
    t[torch.rand(B, generator=generator) < p_T] = T
    return Noise(t, torch.randn(B, N, D, generator=generator))


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
            self.E_y, self.E_x = Encoder(y_shape, N, D, conv), Encoder(x_shape, N, D, conv)
            self.D_x = Decoder(x_shape, N, D, conv)
            if rec:
                self.D_y = Decoder(y_shape, N, D, conv)
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

    def loss(self, y, x, noise, turn="both", w_pred=1.0, w_nce=1.0, gather=lambda z: z):
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
        everyone = gather(z_0), gather(z_T)
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
                denoise, z_T, self.kernel, grid(steps, self.kernel.T, times), eta, order, randn
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
            draws = [dbim(denoise, z_T, kernel, grid(S, kernel.T, g), **how) for S in (10, 20, 100)]
            print(f"{name:24}" + "".join(map(show, draws)))
        for n, churn in ((4, 0.33), (40, 0.33), (40, 0.0)):
            name = f"Heun, churn {churn}, NFE {(3 if churn else 2) * n - 1}"
            print(f"{name:24}" + show(heun(denoise, z_T, kernel, n, churn)))


if __name__ == "__main__":
    demo()
