"""
bridge_networks.py
"""

import math

import torch
import torch.nn.functional as fn
from torch import nn


def time_embedding(t, width):
    """Sinusoids of t (B,) -> (B, width)."""
    freq = torch.exp(-math.log(10000) * torch.arange(width // 2, device=t.device) / (width // 2))
    angle = t[:, None].float() * freq  # (B, width/2)
    return torch.cat([angle.cos(), angle.sin()], 1)


def zero_init(layer):
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
        self.ada = zero_init(nn.Linear(width, 6 * width)) if time else None

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
        self.ada, self.last = zero_init(nn.Linear(width, 2 * width)), zero_init(nn.Linear(width, D))

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
        emb = self.time(time_embedding(c_noise, self.width))  # (B, W)
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
        self.skip, self.last = conv(2 * width, width), zero_init(conv(width, D))
        self.norms = nn.ModuleList(nn.GroupNorm(8, w * width) for w in (1, 2, 2, 1))
        self.from_t = nn.ModuleList(nn.Linear(3 * width, w * width) for w in (1, 2, 2, 1))

    def remember(self, z_T):
        return z_T

    def forward(self, z, c_noise, memory):
        emb = fn.silu(self.time(time_embedding(c_noise, self.width)))
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


def kind_of(shape):
    """(n,) vector, (C, H, W) image if C <= 4, else (D, H, W) volume, (V, C, H, W) several views."""
    if len(shape) == 3:
        return "image" if shape[0] <= 4 else "volume"
    if len(shape) not in (1, 4):
        raise ValueError(
            f"items of shape {shape}: expected (n), (C, H, W), (D, H, W), (V, C, H, W)"
        )
    return "vector" if len(shape) == 1 else "views"


def dense_layers(n_in, n_out, width):
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


def image_levels(shape, N):
    """(channels C, coarse side g, patch p, halvings n): side of the image = g p 2^n, about."""
    C, *size = as_image(torch.empty(1, *shape), shape).shape[1:]
    g = round(N**0.5)
    fits = lambda p: p * g <= min(size) and not any(n % p for n in size)
    p = max([1, *filter(fits, (2, 3, 4))])  # a patch that does not fit would lose the last pixels
    return C, size, g, p, max(0, round(math.log2(min(size) / p / g)))


class ModalityEncoder(nn.Module):
    """Items (B, *shape) -> tokens (B, N, D): E_x or E_y.

    Patches, then convolutions of stride 2 down to g x g = N places: token i is place i. Vectors,
    and numbers of tokens that are no square: a dense layer at the end."""

    def __init__(self, shape, N, D, width=64):
        super().__init__()
        self.shape, self.N, self.vector = shape, N, kind_of(shape) == "vector"
        if self.vector:
            self.dense = dense_layers(shape[0], N * D, width)
            return
        C, _, g, p, n = image_levels(shape, N)
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


class ModalityDecoder(nn.Module):
    """Tokens (B, N, D) -> items (B, *shape): D_x, an Encoder turned round."""

    def __init__(self, shape, N, D, width=64):
        super().__init__()
        self.shape, self.width, self.vector = shape, width, kind_of(shape) == "vector"
        if self.vector:
            self.dense = dense_layers(N * D, shape[0], width)
            return
        C, self.size, self.g, p, n = image_levels(shape, N)
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
