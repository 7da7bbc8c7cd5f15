"""
bridge_networks.py: the networks of LD's bridge. No diffusion in this file: arrays in, arrays out.

A bridge (latent_bridge.py) needs three kinds of network:

    E_y, E_x   modality encoders   an item, e.g. a picture (B, 1, 32, 32)     -> tokens (B, N, D)
    net        the denoiser        tokens of z_t and of z_T, and the time t   -> tokens (B, N, D)
    D_x        modality decoder    tokens (B, N, D)                           -> an item

A token is a vector of D numbers, and a latent is N tokens: 16 tokens of 32 numbers, say. Every
modality becomes tokens of the same N and D. So the denoiser never learns whether it works on
pictures, solids or embeddings of text: that is how one bridge can join any two modalities.
Where items have rows and columns, the tokens form a square grid. Token i is place i of that grid,
counted row by row, and stands for that region of the item.

Papers   [LD]   Berman et al., LDDBM, arXiv 2510.20819, by its poster: the denoiser, DESIGNS
         [DiT]  Peebles, Xie, "Scalable Diffusion Models with Transformers", arXiv 2212.09748
Map      Attention, EncoderBlock, DecoderBlock   parts of a transformer
         Denoiser, UNet, make_denoiser           the denoiser and its simpler rivals
         kind_of, as_images, from_images         what kind of array an item is
         ModalityEncoder, ModalityDecoder        any array -> tokens -> any array
         Patches, Unpatches, make_patches        no encoder at all: the bridge runs on pixels
Letters  B batch   N tokens   D numbers a token   M tokens of a memory   W width, inside a network
         C, H, W channels, height, width of an image, wherever a comment is about an image
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as fn
from torch import nn

from ddim_translator import time_embedding

# GroupNorm takes mean and variance over an eighth of the channels of one picture at a time. Unlike
# BatchNorm it does not mix the pictures of a batch. Widths here are therefore multiples of 8.
GROUPS = 8

# --------------------------------------------------------------------------------------------------
# Parts of a transformer


def zero_init(layer):
    """The layer with weight and bias 0: its output is 0 until it has learned something."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def make_mlp(width):
    """The MLP of a block; it works on each token alone. Four times wider inside is the custom."""
    hidden = 4 * width
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class Attention(nn.Module):
    """Attention of several heads: h (B, N, W), memory (B, M, W) -> (B, N, W).

    Each token of h makes a query, each token of memory a key and a value. A token of h receives the
    mean of all values, weighted by how well its query fits their keys. With memory = h this is
    self-attention, else cross-attention."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)  # keys and values, by one matrix
        self.out = nn.Linear(width, width)
        with torch.no_grad():
            self.start_as_copy()

    def start_as_copy(self):
        """Initial weights by which a token copies the memory's token of the same place.

        A [MASK] token (see Denoiser) has no other way to what z_t and z_T say about its place, and
        from PyTorch's random start it takes thousands of steps to find it."""
        to_key, to_value = self.kv.weight.chunk(2)  # views: what is written to them is in kv

        # Keys are made by the same matrix as queries. Then a query fits best to the key of a token
        # like its own, and tokens of one place are alike: Denoiser adds the same vector to them.
        # That matrix, of queries AND keys, is doubled: their products, from which softmax makes the
        # weights, are 4 times larger, and the weights nearer to 0 or 1. A new network of width 96,
        # 2 heads and 16 tokens gives the right place 79 % of a mask's cross-attention; 20 % without
        # the doubling; 1/16 = 6 % if keys had a random matrix of their own.
        self.q.weight.mul_(2)
        to_key.copy_(self.q.weight)

        # Values are rotated by an orthogonal matrix, and rotated back on the way out: what a token
        # attends to arrives as it was.
        nn.init.orthogonal_(to_value)
        self.out.weight.copy_(to_value.T)

    def forward(self, h, memory):
        q = self.split(self.q(h))
        k, v = self.kv(memory).chunk(2, dim=2)
        # softmax(q k' / sqrt(W / heads)) v, in each head for itself
        h = fn.scaled_dot_product_attention(q, self.split(k), self.split(v))
        return self.out(h.transpose(1, 2).flatten(2))  # (B, N, W): the heads side by side

    def split(self, x):
        """(B, N, W) -> (B, heads, N, W / heads): each head gets a part of every token."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class EncoderBlock(nn.Module):
    """h (B, N, W) -> (B, N, W): tokens look at each other, then an MLP works on each.

    Each part adds to h, and sees it normalised: h + f(norm(h)). The sum lets gradients through
    unchanged, however many blocks there are; the norm keeps f's input at unit size."""

    def __init__(self, width, heads):
        super().__init__()
        self.norm_1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm_2 = nn.LayerNorm(width)
        self.mlp = make_mlp(width)

    def forward(self, h):
        x = self.norm_1(h)
        h = h + self.attention(x, x)
        return h + self.mlp(self.norm_2(h))


def modulate(x, shift, scale):
    """x (B, N, W) with a scale and a shift (B, 1, W) of each coordinate. Both 0: x itself."""
    return x * (1 + scale) + shift


class DecoderBlock(nn.Module):
    """The same, told the time t, and with cross-attention to a memory if cross is True.

    At little noise a block has to work differently than at much. DiT's adaLN-zero: LayerNorm has no
    scale and shift of its own; they are computed from t, and so is a gate:
        h + gate f(norm(h) (1 + scale) + shift)
    The layer that computes them starts at 0. So every gate is closed at first: self-attention and
    MLP add nothing, and each gate opens as far as it proves useful. That makes a deep network easy
    to train."""

    def __init__(self, width, heads, cross=False):
        super().__init__()
        self.norm_1 = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = Attention(width, heads)
        self.cross = Attention(width, heads) if cross else None
        self.norm_cross = nn.LayerNorm(width) if cross else None
        self.norm_2 = nn.LayerNorm(width, elementwise_affine=False)
        self.mlp = make_mlp(width)
        self.ada = zero_init(nn.Linear(width, 6 * width))

    def forward(self, h, emb, memory):
        """h (B, N, W), emb (B, W) of the time, memory (B, M, W)."""
        # Six vectors of each item's t, the same for all its tokens: (B, 1, W) each.
        six = self.ada(emb)[:, None].chunk(6, dim=2)
        scale_1, shift_1, gate_1, scale_2, shift_2, gate_2 = six

        x = modulate(self.norm_1(h), shift_1, scale_1)
        h = h + gate_1 * self.attention(x, x)
        # Cross-attention has no gate: it is open from the start, for it brings in the source.
        if self.cross is not None:
            h = h + self.cross(self.norm_cross(h), memory)
        return h + gate_2 * self.mlp(modulate(self.norm_2(h), shift_2, scale_2))


# --------------------------------------------------------------------------------------------------
# The denoiser


class Denoiser(nn.Module):
    """LD's transformer encoder-decoder: z_t, the time and z_T -> (B, N, D), about z_0.

    Two calls: memory = remember(z_T), then forward(z, c_noise, memory), z (B, N, D) being z_t at
    unit size and c_noise (B,) the time. As in language translation an encoder reads the source,
    z_T, and a decoder looks at it while it writes the target. Time is not told to the encoder. So
    a sampler, which calls forward at every step, needs to call remember only once.

    Spatial embedding: to attention, tokens are a set without order. `place` holds a learned vector
    for each place, which is added to the tokens of that place: in z_T, in z_t and in the masks.

    [MASK] tokens: where should the answer be read? At z_t's own tokens, the W numbers of a token
    would have to hold the noisy input and the answer at once. So N more tokens join the decoder,
    which hold nothing at first but one learned vector, and are free for the answer: that of place i
    is read at mask i. (In BERT a masked word is predicted so.)

    The switches are rows of LD's ablation, see make_denoiser. Without `cross` there is no encoder:
    token i is made of z_t and z_T at place i together. That is a DiT."""

    def __init__(self, N, D, width=96, heads=4, layers=2, cross=True, spatial=True, mask=True):
        super().__init__()
        self.N, self.width = N, width
        self.embed = nn.Linear(D if cross else 2 * D, width)
        self.embed_T = nn.Linear(D, width) if cross else None
        self.place = nn.Parameter(torch.randn(N, width)) if spatial else None
        self.mask = nn.Parameter(torch.randn(1, width)) if mask else None
        self.time = nn.Sequential(
            nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        # A DiT has all its blocks in the decoder, so that each row has as many blocks.
        encoder_layers = layers if cross else 0
        decoder_layers = layers if cross else 2 * layers
        self.encoder = nn.ModuleList(EncoderBlock(width, heads) for _ in range(encoder_layers))
        self.decoder = nn.ModuleList(
            DecoderBlock(width, heads, cross) for _ in range(decoder_layers)
        )
        self.norm_memory = nn.LayerNorm(width) if cross else None
        # The end is adaLN-zero, too, and the output of a new network 0: the estimate of z_0 is then
        # c_skip z_t, the best that a multiple of z_t can do (Bridge.precondition).
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.ada = zero_init(nn.Linear(width, 2 * width))
        self.last = zero_init(nn.Linear(width, D))

    def placed(self, h):
        """h (B, N, W) with the vector of each token's place added."""
        return h if self.place is None else h + self.place

    def remember(self, z_T):
        """The encoder: z_T (B, N, D) -> memory (B, N, W). In a DiT it is z_T itself."""
        if self.embed_T is None:
            return z_T
        h = self.placed(self.embed_T(z_T))
        for block in self.encoder:
            h = block(h)
        return self.norm_memory(h)

    def forward(self, z, c_noise, memory):
        # Sinusoids of the time, of many wavelengths (see ddim_translator.py), and an MLP on them.
        emb = self.time(time_embedding(c_noise, self.width))  # (B, W)

        # The decoder's tokens: those of z_t, and then the masks.
        if self.embed_T is None:
            z = torch.cat([z, memory], dim=2)  # DiT: (B, N, 2D)
        h = self.placed(self.embed(z))  # (B, N, W)
        if self.mask is not None:
            masks = self.placed(self.mask.expand(len(z), self.N, -1))
            h = torch.cat([h, masks], dim=1)  # (B, 2N, W)

        for block in self.decoder:
            h = block(h, emb, memory)

        # The answer stands in the last N tokens: the masks, or z_t's own where there are none.
        shift, scale = self.ada(emb)[:, None].chunk(2, dim=2)
        h = modulate(self.norm(h[:, -self.N :]), shift, scale)
        return self.last(h)  # (B, N, D)


class UNet(nn.Module):
    """The same job by convolutions, LD's first row: good for pictures, whose neighbours belong
    together; of no use for tokens that have no places.

    The N tokens are a picture of sqrt(N) x sqrt(N) places and D channels. It is halved once and
    enlarged again, and what was there before the halving is put beside it (the skip)."""

    def __init__(self, N, D, width=96):
        super().__init__()
        self.side, self.width = math.isqrt(N), width
        if self.side**2 != N or self.side % 2:
            raise ValueError(f"{N} tokens: the U-Net needs the square of an even number")
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 3 * width))
        # The numbers after the channels are kernel size, stride and padding.
        self.first = nn.Conv2d(2 * D, width, 3, 1, 1)
        self.down = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.mid = nn.Conv2d(2 * width, 2 * width, 3, 1, 1)
        self.up = nn.ConvTranspose2d(2 * width, width, 4, 2, 1)
        self.skip = nn.Conv2d(2 * width, width, 3, 1, 1)
        self.last = zero_init(nn.Conv2d(width, D, 3, 1, 1))
        # For each of the four stages of `forward`: a norm, and what the time adds to a channel.
        channels = [width, 2 * width, 2 * width, width]
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, c) for c in channels)
        self.from_t = nn.ModuleList(nn.Linear(3 * width, c) for c in channels)

    def remember(self, z_T):
        return z_T

    def forward(self, z, c_noise, memory):
        emb = fn.silu(self.time(time_embedding(c_noise, self.width)))
        h = torch.cat([z, memory], dim=2)  # (B, N, 2D)
        h = h.transpose(1, 2).unflatten(2, (self.side, self.side))  # (B, 2D, side, side)
        top = self.activate(self.first(h), emb, stage=0)  # (B, W, side, side)
        h = self.activate(self.down(top), emb, stage=1)  # (B, 2W, side/2, side/2)
        h = self.activate(self.mid(h), emb, stage=2)
        h = torch.cat([self.up(h), top], dim=1)  # (B, 2W, side, side)
        h = self.activate(self.skip(h), emb, stage=3)
        return self.last(h).flatten(2).transpose(1, 2)  # (B, N, D)

    def activate(self, h, emb, stage):
        """What follows each convolution: the norm, the time added to each channel, SiLU."""
        return fn.silu(self.norms[stage](h) + self.from_t[stage](emb)[:, :, None, None])


# The rows of LD's design ablation, in its order. Each row from "dit" on adds one thing.
DESIGNS = ("unet", "dit", "encoder-decoder", "spatial", "mask")


def make_denoiser(design, N, D, width=96, heads=4, layers=2):
    """The denoiser of one row. Raises ValueError for a name that is not in DESIGNS."""
    if design not in DESIGNS:
        raise ValueError(f"denoiser {design!r}: choose {', '.join(DESIGNS)}")
    if design == "unet":
        return UNet(N, D, width)
    return Denoiser(
        N, D, width, heads, layers,
        cross=design != "dit",
        spatial=design in ("spatial", "mask"),
        mask=design == "mask",
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------
# Kinds of items


def kind_of(shape):
    """ "vector" (n), "image" (C, H, W), "volume" (D, H, W) or "views" (V, C, H, W), by its shape.

    Three axes are an image if the first has at most 4 numbers: grey, colour, or colour and alpha.
    Raises ValueError for two axes, or more than four."""
    if len(shape) == 1:
        return "vector"
    if len(shape) == 3:
        return "image" if shape[0] <= 4 else "volume"
    if len(shape) == 4:
        return "views"
    raise ValueError(f"items of shape {shape}: expected (n), (C, H, W), (D, H, W), (V, C, H, W)")


def unit_of(items):
    """(mean, size): (item - mean) / size is centred and of unit size; items is a numpy array."""
    # Pictures are known to be 0 to 255, voxels False or True: both go to -1 ... 1.
    if items.dtype.kind == "u":
        return 127.5, 127.5
    if items.dtype.kind == "b":
        return 0.5, 0.5
    # Embeddings and the like may have any scale: it is measured, one number for all coordinates.
    return items.mean(dtype="f8"), max(items.std(dtype="f8"), 1e-12)


def as_images(x, shape):
    """(B, *shape) -> (B V, C, H, W), so that convolutions of pictures serve all kinds.

    V views are V pictures; of all else V is 1. The last axis of a volume becomes its channels."""
    if kind_of(shape) == "volume":
        return x.movedim(3, 1)
    return x.reshape(-1, *shape[-3:])


def from_images(x, shape):
    """as_images undone."""
    if kind_of(shape) == "volume":
        return x.movedim(1, 3)
    return x.reshape(-1, *shape)


# --------------------------------------------------------------------------------------------------
# Modality encoders and decoders


class Levels(NamedTuple):
    """The way from an image to a grid of tokens: cut into patches, then halve some times.

    Its shorter side is about side * patch * 2 ** halvings. An image of 32 x 32 and 16 tokens: the
    grid is 4 x 4, patches of 4 x 4 pixels leave 8 x 8, and one halving 4 x 4."""

    views: int
    channels: int
    size: list  # [height, width] of the image
    side: int  # of the grid of tokens
    patch: int  # side of a patch, in pixels
    halvings: int


def image_levels(shape, N):
    """The Levels from items of this shape to N tokens, or nearly N, if N is not a square."""
    views, channels, *size = as_images(torch.empty(1, *shape), shape).shape
    height, width = size
    side = round(N**0.5)
    # The largest patch that fits, as patches are cheap. One that does not divide height and width
    # would lose the last pixels.
    patch = 1
    for p in (2, 3, 4):
        if p * side <= min(size) and height % p == 0 and width % p == 0:
            patch = p
    halvings = max(0, round(math.log2(min(size) / patch / side)))
    return Levels(views, channels, size, side, patch, halvings)


def dense_layers(n_in, n_out, width):
    """An MLP from n_in to n_out numbers: for vectors, which have no places."""
    hidden = 4 * width
    layers = [nn.Linear(n_in, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(hidden, n_out))


def norm_and_silu(width):
    return [nn.GroupNorm(GROUPS, width), nn.SiLU()]


class Mix(nn.Module):
    """h (B, M, W) -> (B, N, W): each of N new places is a weighted sum of all M old ones.

    Attention computes its weights from what it sees. These, for each eighth of the channels, are
    parameters: what camera 3 shows at its left edge stands in the same direction in every room."""

    def __init__(self, M, N):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(GROUPS, N, M) / M**0.5)  # sums of unit size

    def forward(self, h):
        h = h.unflatten(2, (GROUPS, -1))  # (B, M, GROUPS, W / GROUPS)
        return torch.einsum("gnm,bmgc->bngc", self.weight, h).flatten(2)


class ModalityEncoder(nn.Module):
    """Items (B, *shape) -> tokens (B, N, D): E_x or E_y. width is the channels inside.

    A vector goes through an MLP. Images, or views (see as_images), go through convolutions down to
    a grid of side x side places. If these are N, token i is place i, by the same linear layer for
    all. If not, as with views, whose places are not the target's, Mix makes N places of them."""

    def __init__(self, shape, N, D, width=64):
        super().__init__()
        self.shape, self.N = shape, N
        self.vector = kind_of(shape) == "vector"
        if self.vector:
            self.dense = dense_layers(shape[0], N * D, width)
            return

        to = image_levels(shape, N)
        # A convolution whose stride is its kernel size cuts the image into patches.
        layers = [nn.Conv2d(to.channels, width, to.patch, to.patch), *norm_and_silu(width)]
        for _ in range(to.halvings):
            layers += [nn.Conv2d(width, width, 4, 2, 1), *norm_and_silu(width)]
        layers += [nn.Conv2d(width, width, 3, 1, 1), *norm_and_silu(width)]
        self.convs = nn.Sequential(*layers)

        self.side, places = to.side, to.views * to.side**2
        self.mix = nn.Identity() if places == N else Mix(places, N)
        self.dense = nn.Linear(width, D)

    def forward(self, x):
        if self.vector:
            return self.dense(x).unflatten(1, (self.N, -1))
        h = self.convs(as_images(x, self.shape))
        if list(h.shape[2:]) != [self.side, self.side]:  # sides that do not fit
            h = fn.adaptive_avg_pool2d(h, self.side)
        h = h.flatten(2).transpose(1, 2)  # (B V, side^2, W)
        h = h.reshape(len(x), -1, h.shape[2])  # (B, places, W)
        return self.dense(self.mix(h))


class ModalityDecoder(nn.Module):
    """Tokens (B, N, D) -> items (B, *shape): D_x. A ModalityEncoder, turned round."""

    def __init__(self, shape, N, D, width=64):
        super().__init__()
        self.shape, self.width = shape, width
        self.vector = kind_of(shape) == "vector"
        if self.vector:
            self.dense = dense_layers(N * D, shape[0], width)
            return

        to = image_levels(shape, N)
        self.size, self.side = to.size, to.side
        places = to.views * to.side**2
        self.dense = nn.Linear(D, width)
        self.mix = nn.Identity() if places == N else Mix(N, places)

        # Transposed convolutions enlarge: by 2 for each halving, and by the patch at the end.
        layers = [nn.Conv2d(width, width, 3, 1, 1), *norm_and_silu(width)]
        for _ in range(to.halvings):
            layers += [nn.ConvTranspose2d(width, width, 4, 2, 1), *norm_and_silu(width)]
        layers += [nn.Conv2d(width, width, 3, 1, 1), *norm_and_silu(width)]
        layers.append(nn.ConvTranspose2d(width, to.channels, to.patch, to.patch))
        self.convs = nn.Sequential(*layers)

    def forward(self, z):
        if self.vector:
            return self.dense(z.flatten(1))
        h = self.mix(self.dense(z))  # (B, places, W)
        h = h.reshape(-1, self.side**2, self.width)  # (B V, side^2, W)
        h = h.transpose(1, 2).unflatten(2, (self.side, self.side))  # (B V, W, side, side)
        x = self.convs(h)
        if list(x.shape[2:]) != self.size:  # sides that are not side * patch * 2 ** halvings
            x = fn.interpolate(x, self.size)
        return from_images(x, self.shape)


class Patches(nn.Module):
    """Images as their own latents, in place of E: (B, C, H, W) -> (B, N, D), D = C patch^2.

    Nothing is learned and nothing is lost: with it the bridge runs on pixels, as in DDBM. Patches
    of 4 x 4 make of a grey 32 x 32 image N = 64 tokens of D = 16 pixels."""

    def __init__(self, shape, patch=4):
        super().__init__()
        self.patch = patch
        self.N = math.prod(shape[1:]) // patch**2
        self.D = shape[0] * patch**2

    def forward(self, x):
        return fn.pixel_unshuffle(x, self.patch).flatten(2).transpose(1, 2)


class Unpatches(nn.Module):
    """Patches undone, in place of D_x: (B, N, D) -> (B, C, H, W)."""

    def __init__(self, shape, patch=4):
        super().__init__()
        self.patch = patch
        self.rows = shape[1] // patch  # of patches

    def forward(self, z):
        z = z.transpose(1, 2).unflatten(2, (self.rows, -1))
        return fn.pixel_shuffle(z, self.patch)


def make_patches(y_shape, x_shape):
    """(Patches, Unpatches). Raises ValueError where y or x cannot be cut into patches of 4 x 4."""
    if y_shape != x_shape or kind_of(x_shape) != "image" or any(n % 4 for n in x_shape[1:]):
        told = "are not images of one shape with sides that are multiples of 4"
        raise ValueError(f"data space: {y_shape} and {x_shape} {told}")
    return Patches(x_shape), Unpatches(x_shape)
