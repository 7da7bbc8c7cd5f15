"""
latent_bridge.py: from a source y to a target x of any shapes, by a diffusion bridge of latents.

Pairs (y, x) are given, such as a small picture and the sharp one, or four silhouettes and the
solid; then x is wanted for a new y. Many x fit one y. A regression answers with their mean, which
is blurred; a diffusion model draws one of them. An ordinary diffusion starts from pure noise, and y
is only a hint on the way. A BRIDGE is tied at both ends: at t = T it is the source, at t = 0 the
target, with noise between them. It starts where much of the answer already is.

Both ends of a bridge have the same shape, and a picture and a solid do not. So encoders E_y, E_x
turn both into N tokens of D numbers, and a decoder D_x turns tokens into x:

    y (B, 1, 8, 8)   -- E_y -->  z_T (B, 16, 32)
                                      | the bridge, from t = T to t = 0, by the denoiser `net`
                                 z_0 (B, 16, 32)  -- D_x -->  x_hat (B, 1, 32, 32)
    x (B, 1, 32, 32) -- E_x -->  z_0, in training only: the bridge's target

Papers   [LD]    Berman et al., "Towards General Modality Translation with Contrastive and
                 Predictive Latent Diffusion Bridge" (LDDBM), arXiv 2510.20819, by its poster
         [DDBM]  Zhou et al., "Denoising Diffusion Bridge Models", arXiv 2309.16948
         [DBIM]  Zheng et al., "Diffusion Bridge Implicit Models", arXiv 2405.15885
         [EDM]   Karras et al., arXiv 2206.00364: preconditioning, the grid of times, Heun
Map      Kernel         q(z_t | z_0, z_T): how z_t is made of both ends and noise    DDBM kernel
         dbim           the sampler of few steps                          DBIM boot, DBIM step
         heun           DDBM's own sampler, to compare with               DDBM ODE, DDBM SDE
         info_nce       a pair's two latents shall resemble each other    LD L_infoNCE*
         Bridge         units; DDBM preconditioning; the losses, LD L, L_bridge*, L_pred*; sample
         bridge_networks.py has the networks, train_bridge.py the training loop
         * marks an equation we changed: PAPERS.md says why
Letters  B batch   N tokens   D numbers a token   S steps   NFE network evaluations
         memory: what the denoiser's encoder makes of z_T, once a sample
         t = 0 is the target, t = T the source; a step of a sampler goes from t to a smaller s
Try      python latent_bridge.py        a bridge with a known answer: every sampler against it, 10 s
"""

import functools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as fn
from torch import nn

import bridge_networks
from bridge_networks import ModalityDecoder, ModalityEncoder, make_denoiser, make_patches

# --------------------------------------------------------------------------------------------------
# The kernel: a diffusion that is tied to z_0 at t = 0 and to z_T at t = T


class Kernel:
    """q(z_t | z_0, z_T) = N(a_t z_T + b_t z_0, std_t^2): z_t is a mixture of both ends, and noise.

    It is made of an ordinary diffusion, the base: z_t = s_t (z_0 + rho_t eps), eps ~ N(0, 1).
        VP  s_t = exp(-u/2), rho_t^2 = exp(u) - 1, u = beta_d t^2 / 2 + beta_min t, T = 1
        VE  s_t = 1, rho_t = t, T = sigma_max
    VP ("variance preserving") fades the signal, s_t^2 (1 + rho_t^2) = 1; VE ("exploding") drowns
    it. Use VP: its std_t is at most 0.52. VE's is 40 in mid-bridge: beside that, latents of size 1
    cannot be seen, and all that is left to learn is a regression (theory/sampling.py, S6)."""

    def __init__(self, kind="vp", beta_d=2.0, beta_min=0.1, sigma_max=80.0):
        if kind not in ("vp", "ve"):
            raise ValueError(f"kernel {kind!r}: choose vp or ve")
        self.kind, self.beta_d, self.beta_min = kind, beta_d, beta_min  # DDBM's values
        self.T = 1.0 if kind == "vp" else sigma_max

    def base(self, t):
        """s_t and rho_t^2 of the base diffusion."""
        if self.kind == "ve":
            return torch.ones_like(t), t**2
        u = self.beta_d * t**2 / 2 + self.beta_min * t
        # expm1(u) is exp(u) - 1, but keeps its digits near t = 0, where exp(u) is 1.0000...
        return torch.exp(-u / 2), torch.expm1(u)

    def __call__(self, t):
        """(a_t, b_t, std_t) at times t in [0, T], float64, of t's shape.

        With q = rho_t^2 / rho_T^2: a = s_t q / s_T, b = s_t (1 - q), std = s_t rho_t sqrt(1 - q).
        VP: 0, 1, 0 at t = 0, z_0 itself; 0.26, 0.71, 0.46 at T/2; 1, 0, 0 at T, z_T itself."""
        t = torch.as_tensor(t, dtype=torch.float64)
        s, rho2 = self.base(t)
        s_T, rho2_T = self.base(torch.full_like(t, self.T))

        # Where this comes from: the base diffusion, conditioned on its end. Given z_0, the base has
        #     z_t = s_t z_0 + s_t rho_t eps,    z_T = (s_T / s_t) z_t + fresh noise.
        # Both are Gaussian, with var z_T = s_T^2 rho_T^2, cov(z_t, z_T) = (s_T / s_t) var z_t.
        # To condition a Gaussian on z_T, add gain (z_T - its mean) to the mean of z_t:
        #     gain = cov / var z_T = s_t rho_t^2 / (s_T rho_T^2)                 this is a_t
        #     mean = s_t z_0 + a_t (z_T - s_T z_0), where z_0 has the weight s_t - a_t s_T = b_t
        #     var  = var z_t - gain cov = s_t^2 rho_t^2 (1 - q)                  this is std_t^2
        q = rho2 / rho2_T
        a = s / s_T * q
        b = s * (1 - q)
        std = s * (rho2 * (1 - q)).sqrt()
        return a, b, std  # DDBM kernel

    def rates(self, t):
        """Time derivatives of (a_t, b_t, std_t) at 0 < t < T, float64: only `heun` needs them."""
        t = torch.as_tensor(t, dtype=torch.float64)
        s, rho2 = self.base(t)
        s_T, rho2_T = self.base(torch.full_like(t, self.T))
        if self.kind == "ve":
            ds, drho2 = torch.zeros_like(t), 2 * t
        else:
            ds, drho2 = -s * self.g2(t) / 2, (1 + rho2) * self.g2(t)
        # The formulas of __call__ by the product rule; std = s sqrt(w).
        q, dq = rho2 / rho2_T, drho2 / rho2_T
        w, dw = rho2 * (1 - rho2 / rho2_T), drho2 * (1 - 2 * q)
        da = (ds * q + s * dq) / s_T
        db = ds * (1 - q) - s * dq
        dstd = ds * w.sqrt() + s * dw / (2 * w.sqrt())
        return da, db, dstd

    def g2(self, t):
        """g(t)^2, how fast the base diffusion gathers new noise: dz = f z dt + g dw."""
        return self.beta_d * t + self.beta_min if self.kind == "vp" else 2 * t


# --------------------------------------------------------------------------------------------------
# Samplers: from z_T to a z_0. Of the network they see only denoise(z_t, t) -> z0_hat


def time_grid(S, T, kind="uniform", rho=7, t_min=1e-4):
    """S + 1 times from T to 0; the network is evaluated at all but the last: NFE = S.

    "karras" is EDM's grid, uniform in t^(1 / rho), so denser near 0. VE needs it: of its 80 units
    of time, the last few alone have noise of the size of the data."""
    # The second time is just below T, for T itself is special: see the boot in `dbim`.
    first = T * (1 - 1e-3)
    if kind == "uniform":
        inner = torch.linspace(first, 0, S, dtype=torch.float64)
    else:
        ends = first ** (1 / rho), (T * t_min) ** (1 / rho)
        inner = torch.linspace(*ends, S, dtype=torch.float64) ** rho
    inner[-1] = 0  # exactly, whatever rounding says; with S = 1 the grid is T, 0
    return [T, *inner.tolist()]


def dbim(denoise, z_T, kernel, times, eta=0.0, randn=torch.randn):
    """A sample of z_0 given z_T (B, N, D), in len(times) - 1 evaluations of denoise.

    The idea: guess z_0, then draw z_s of q(z_s | z_0, z_T) as if the guess were true, at a smaller
    time s. As q is known at every s, steps may be long. eta, from 0 to 1 or ValueError, is how much
    of the noise a step draws anew: 0 none, it is carried on; 1 so much that the chain is Markov."""
    if not 0 <= eta <= 1:
        raise ValueError(f"eta {eta}: it is a share of the noise, from 0 to 1")

    # The boot ("booting noise"). z_T holds no noise that could be carried on, so the first step has
    # to draw it. At eta = 0 nothing else is random: without it a source has a single answer.
    T, s = times[:2]
    a_s, b_s, std_s = kernel(s)
    z0_hat = denoise(z_T, T)
    z_t = a_s * z_T + b_s * z0_hat + std_s * randn(z_T.shape, device=z_T.device)  # DBIM boot

    for t, s in zip(times[1:-1], times[2:], strict=True):
        a_t, b_t, std_t = kernel(t)
        a_s, b_s, std_s = kernel(s)
        z0_hat = denoise(z_t, t)
        # z_t = a_t z_T + b_t z_0 + std_t eps, solved for the noise that is in it.
        eps_hat = (z_t - a_t * z_T - b_t * z0_hat) / std_t
        # z_s has noise of variance std_s^2. A part of it is new, of std `fresh`; what is missing
        # in the variance is filled up with old noise, eps_hat. At eta = 1, `fresh` is such that z_T
        # cancels in z_s: the step knows z_t and z0_hat alone.
        fresh = eta * (std_s**2 - (std_t * a_s / a_t) ** 2).clamp(min=0).sqrt()
        kept = (std_s**2 - fresh**2).clamp(min=0).sqrt()
        z_t = a_s * z_T + b_s * z0_hat + kept * eps_hat  # DBIM step
        if eta and s > 0:  # at s = 0, std_s is 0
            z_t = z_t + fresh * randn(z_T.shape, device=z_T.device)
    return z_t


def heun(denoise, z_T, kernel, steps=40, churn=0.33, rho=7, t_min=1e-4, randn=torch.randn):
    """DDBM's hybrid sampler, to compare with; the method does not need it.

    A step goes a stretch by an SDE, a path with noise, and the rest by an ODE, without; `churn` is
    the SDE's share. NFE = 3 steps - 1; at churn = 0 2 steps - 1, and one answer a source."""
    # EDM's grid. It begins a little below T: at T, std is 0, and eps_hat would be 0 / 0.
    ends = (kernel.T * (1 - 1e-4)) ** (1 / rho), (kernel.T * t_min) ** (1 / rho)
    times = [*(torch.linspace(*ends, steps, dtype=torch.float64) ** rho).tolist(), 0.0]

    def slopes(z_t, t):
        """dz/dt of the ODE, and the score: the gradient of log q(z_t | z_T)."""
        a, b, std = kernel(t)
        da, db, dstd = kernel.rates(t)
        z0_hat = denoise(z_t, t)
        eps_hat = (z_t - a * z_T - b * z0_hat) / std
        # With z_0 and eps held, z_t = a z_T + b z_0 + std eps moves only as a, b and std do.
        slope = da * z_T + db * z0_hat + dstd * eps_hat  # DDBM ODE
        return slope, -eps_hat / std

    z_t = z_T
    for t, s in zip(times[:-1], times[1:], strict=True):
        if churn:
            # From t down to m. Where the SDE draws noise of variance g^2 (t - m), it has to drift
            # more towards likely z_t than the ODE, by g^2 / 2 times the score.
            m = t + churn * (s - t)
            slope, score = slopes(z_t, t)
            kick = math.sqrt(kernel.g2(t) * (t - m)) * randn(z_T.shape, device=z_T.device)
            z_t = z_t + (m - t) * (slope - kernel.g2(t) / 2 * score) + kick  # DDBM SDE
            t = m
        # Heun: look at the slope where Euler's step would end, and go by the mean of both. The last
        # step, to s = 0, is Euler's: std is 0 there, too.
        slope, _ = slopes(z_t, t)
        if s > 0:
            slope_at_s, _ = slopes(z_t + (s - t) * slope, s)
            slope = (slope + slope_at_s) / 2
        z_t = z_t + (s - t) * slope
    return z_t


# --------------------------------------------------------------------------------------------------
# The bridge: what its training step draws, its losses, its samples


class BridgeNoise(NamedTuple):
    """All that is random in a training step."""

    t: torch.Tensor  # (B,) float64 in (0, T]
    eps: torch.Tensor  # (B, N, D)


def draw_bridge_noise(B, N, D, T=1.0, p_T=0.1, generator=None):
    """Times t uniform in (0, T], and noise; but with probability p_T, t is T.

    At t < T the network sees z_t, and in it something of the target z_0. At T, z_t is z_T: nothing
    leaks, and the estimate has to come from y alone, as in the first step of a sampler."""
    t = T * (1e-4 + (1 - 1e-4) * torch.rand(B, generator=generator, dtype=torch.float64))
    t[torch.rand(B, generator=generator) < p_T] = T
    return BridgeNoise(t, torch.randn(B, N, D, generator=generator))


def info_nce(z_0, z_T, tau):
    """How badly a pair's two latents are found among the batch; z_0, z_T (B, N, D) -> ().

    A classification: which of the B z_T belongs to this z_0, and which z_0 to this z_T? The scores
    are cosines over tau, the loss is the cross-entropy. The temperature tau says what a lead is
    worth: cosines of 0.9 and 0.7 are odds of exp(0.2 / tau), 17 to 1 at tau = 0.07, 1.5 at 0.5."""
    u = fn.normalize(z_0.flatten(1), dim=1)  # (B, N D), of length 1
    v = fn.normalize(z_T.flatten(1), dim=1)
    logits = u @ v.T / tau  # (B, B): row i has the scores of z_0 number i
    right = torch.arange(len(u), device=u.device)  # the right answer for row i is i
    # LD prints one direction, and no minus sign.
    one, other = fn.cross_entropy(logits, right), fn.cross_entropy(logits.T, right)
    return (one + other) / 2  # LD L_infoNCE*


class Bridge(nn.Module):
    """E_y, the denoiser `net` and D_x, with E_x for training: y (B, *y_shape) -> x (B, *x_shape).

    design      which denoiser: a row of LD's ablation, see bridge_networks.DESIGNS
    rec         L_rec in place of L_pred: two plain autoencoders, hence a decoder D_y
    data_space  no encoders: the latents are patches of pixels. For images of one shape
    Raw items are as the data set has them, e.g. uint8 pictures: `loss` and `sample` take these.
    Scaled ones are centred floats of unit size: the networks see them, and `sample` returns them.
    Raises ValueError for what cannot be built, and for items of another shape."""

    def __init__(
        self, y_shape, x_shape, N=16, D=32, width=96, heads=4, layers=2, conv=64,
        kernel="vp", design="mask", tau=0.07, rec=False, data_space=False,
    ):  # fmt: skip
        super().__init__()
        self.y_shape, self.x_shape = tuple(y_shape), tuple(x_shape)
        self.kernel = Kernel(kernel)
        self.tau, self.rec, self.data_space = tau, rec, data_space
        if data_space:
            E, self.D_x = make_patches(self.y_shape, self.x_shape)
            self.E_y = self.E_x = E
            N, D = E.N, E.D
        else:
            self.E_y = ModalityEncoder(self.y_shape, N, D, conv)
            self.E_x = ModalityEncoder(self.x_shape, N, D, conv)
            self.D_x = ModalityDecoder(self.x_shape, N, D, conv)
            if rec:
                self.D_y = ModalityDecoder(self.y_shape, N, D, conv)
        self.N, self.D = N, D
        self.net = make_denoiser(design, N, D, width, heads, layers)

        # Measured, not trained: E z_0^2, E z_T^2, E z_0 z_T of the latents, and units of raw items.
        self.register_buffer("moments", torch.tensor([1.0, 1.0, 0.0]))
        for side in ("y", "x"):
            self.register_buffer(f"{side}_mean", torch.zeros(()))
            self.register_buffer(f"{side}_scale", torch.ones(()))
        self.volume = bridge_networks.kind_of(self.x_shape) == "volume"
        if self.volume:  # see `distance`
            self.register_buffer("w_occupied", torch.ones(()))

    # -- units: raw items -> scaled items -> latents

    def fit(self, y, x, balance=0.5):
        """Measure the units on some raw items, numpy arrays (n, *shape); balance: see distance."""
        for name, items in (("y", y), ("x", x)):
            mean, size = bridge_networks.unit_of(items)
            self.get_buffer(f"{name}_mean").fill_(mean)
            self.get_buffer(f"{name}_scale").fill_(1 / size)
        if self.volume and x.dtype.kind == "b":
            occupied = x.mean().clip(1e-4, 1 - 1e-4)
            self.w_occupied.fill_((1 / occupied - 1) ** balance)

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
        """(z_T, z_0), both (B, N, D), of raw items."""
        return self.normed(self.E_y(self.scale_y(y))), self.normed(self.E_x(self.scale_x(x)))

    def normed(self, z):
        """Each token with mean 0, mean square 1, for the kernel's noise has a fixed size, too: free
        latents would grow until noise does not matter. In data space pixels stay as they are."""
        return z if self.data_space else fn.layer_norm(z, (self.D,))

    # -- the preconditioned denoiser

    @torch.no_grad()
    def measure(self, z_0, z_T):
        """Running second moments for `precondition`, over about the last 100 batches."""
        products = z_0 * z_0, z_T * z_T, z_0 * z_T
        now = torch.stack([product.float().mean() for product in products])
        if now.isfinite().all():  # in fp16 something overflows now and then
            self.moments.lerp_(now, 0.01)

    def precondition(self, t):
        """(c_skip, c_out, c_in) of z0_hat = c_skip z_t + c_out F(c_in z_t), float64, of t's shape.

        At t near 0, z_t is nearly the answer, at T it tells little: two very different jobs for one
        network F. So the best multiple of z_t as a guess of z_0 is added outside of F; and what is
        left is put into units in which F's input and target have size 1 at every t:
            c_in = A^{-1/2}, A = E z_t^2      c_skip = E z_0 z_t / A, that best multiple
            c_out = the root of its mean square error
        For moments 1, 1, 0: c_skip = 1, c_out = 0 at t = 0, where there is nothing to do for F;
        0.90 and 0.60 at T/2 (VP); 0 and 1 at T. A new F is 0: training starts from that guess."""
        a, b, std = self.kernel(t)
        m_0, m_T, m_0T = self.moments.double().to(t.device)
        ends = a**2 * m_T + b**2 * m_0 + 2 * a * b * m_0T  # E (a z_T + b z_0)^2
        A = ends + std**2
        c_skip = (b * m_0 + a * m_0T) / A
        # m_0 - c_skip^2 A, put so that no digits cancel. L_bridge divides by c_out: never 0.
        error = (a**2 * (m_0 * m_T - m_0T**2) + m_0 * std**2) / A
        c_out = error.clamp(min=1e-12).sqrt()
        return c_skip, c_out, A.rsqrt()  # DDBM preconditioning

    def denoise(self, z_t, t, memory):
        """z0_hat = c_skip z_t + c_out F(c_in z_t, c_noise, memory); z_t (B, N, D), t (B,)."""
        c_skip, c_out, c_in = (c[:, None, None].to(z_t.dtype) for c in self.precondition(t))
        # How t is told to the network: by its logarithm, as noise grows by factors, from t = 0.001
        # to 0.002 as much as from 0.1 to 0.2. EDM takes ln(t) / 4; DDBM takes 1000 times that, for
        # the sinusoids of the time embedding were made for step numbers up to 1000.
        c_noise = 250 * t.log()
        F = self.net(c_in * z_t, c_noise, memory)
        return c_skip * z_t + c_out * F.to(z_t.dtype)

    # -- training

    def noised(self, z_0, z_T, noise):
        """z_t of q(z_t | z_0, z_T), (B, N, D)."""
        a, b, std = (c[:, None, None].to(z_0.dtype) for c in self.kernel(noise.t))
        return a * z_T + b * z_0 + std * noise.eps

    def estimate(self, z_0, z_T, noise):
        """LD's B in one step of denoising: z0_hat of z_t, which at t = T is z_T."""
        return self.denoise(self.noised(z_0, z_T, noise), noise.t, self.net.remember(z_T))

    def freeze(self, turn):
        """Decide what may move in this turn: see `loss`."""
        for name, parameter in self.named_parameters():
            in_denoiser = name.startswith("net.")
            denoiser_moves = turn in ("bridge", "both")
            others_move = turn != "bridge"
            parameter.requires_grad_(denoiser_moves if in_denoiser else others_move)

    def loss(self, y, x, noise, turn="both", w_pred=1.0, w_nce=1.0, gather=None):
        """(what is minimised, L_bridge, L_pred, L_infoNCE) of raw items; 0 for what is not there.

        L = L_bridge + w_pred L_pred + w_nce L_infoNCE. What moves in a turn lowers its part of L;
        all else is frozen. What is frozen may lie between the loss and what moves: then gradients
        pass through it, e.g. through D_x to net, or through net to E_x and E_y.

            turn        what moves       L_bridge   L_pred                      L_infoNCE
            "bridge"    net              yes        yes                         no: net has no part
            "modality"  E_x, E_y, D_x    no         yes, through frozen net     yes
            "both"      all of them      yes        yes, and L_rec for E_x      yes
            "apart"     E_x, E_y, D_x    no         L_rec: net is not used      yes

        With rec, L_rec replaces L_pred, except in the bridge's turn: there is none in it, as net
        has no part in L_rec. In data space there is nothing to decode: L_bridge is all.
        gather collects the latents of all processes: their items, too, are negatives of InfoNCE."""
        self.freeze(turn)
        with torch.set_grad_enabled(turn != "bridge"):  # E_x, E_y are frozen: no graph is needed
            z_T, z_0 = self.latents(y, x)
        everyone = (gather(z_0), gather(z_T)) if gather else (z_0, z_T)
        self.measure(*everyone)
        L_bridge = L_pred = L_nce = torch.zeros((), device=z_0.device)

        # L_bridge never reaches E_x. It would be lowered by a z_0 that is easy to guess, and the
        # easiest is one and the same for all x. So z_0 is detached: here it is given, like data.
        # In its own turn E_x does learn through net, from L_pred: D_x needs a z_0 that tells x.
        pred = turn != "apart" and not (self.rec or self.data_space)
        if pred or turn in ("bridge", "both"):
            given = z_0 if turn == "modality" else z_0.detach()
            z0_hat = self.estimate(given, z_T, noise)
        if turn in ("bridge", "both"):
            L_bridge = self.bridge_loss(z0_hat, z_0.detach(), noise)

        # Where all moves, one z0_hat serves both losses: it is half of the work of a step. E_x is
        # cut off from it, so L_rec, of every second row, says what z_0 has to tell.
        if pred:
            L_pred = self.pred_loss(z0_hat, x)
            if turn == "both":
                L_pred = L_pred + self.rec_loss(z_0[::2], z_T[::2], y[::2], x[::2])
        elif turn == "apart" or (self.rec and turn != "bridge"):
            L_pred = self.rec_loss(z_0, z_T, y, x)

        if w_nce and turn != "bridge":
            L_nce = info_nce(*everyone, self.tau)
        return L_bridge + w_pred * L_pred + w_nce * L_nce, L_bridge, L_pred, L_nce  # LD L

    def bridge_loss(self, z0_hat, z_0, noise):
        """mean |z0_hat - z_0|^2 / c_out^2: in units of the error that c_skip z_t leaves.

        LD's loss of the score is the same up to a weight w(t); with this one all t count alike."""
        c_out = self.precondition(noise.t)[1][:, None, None].to(z_0.dtype)
        return ((z0_hat - z_0) / c_out).square().mean()  # LD L_bridge*

    def pred_loss(self, z0_hat, x):
        """mean |D_x(z0_hat) - x|^2: the whole chain, from y to x, against the truth."""
        return self.distance(self.D_x(z0_hat), self.scale_x(x))  # LD L_pred*

    def rec_loss(self, z_0, z_T, y, x):
        """mean |D_x(E_x(x)) - x|^2, and with rec the same for y: autoencoders without a bridge."""
        L = self.distance(self.D_x(z_0), self.scale_x(x))
        if self.rec:
            L = L + (self.D_y(z_T) - self.scale_y(y)).square().mean()
        return L

    def distance(self, x_hat, x):
        """mean |x_hat - x|^2; of voxels with w = (empty / occupied)^balance where x is occupied.

        At w = 1, "empty" is nearly right of a room, and hard to unlearn. What is called occupied
        has a chance above 1 / (1 + w). For an IoU of J the best limit is J / (1 + J): w = 1 / J."""
        error = (x_hat - x).square()
        if not self.volume:
            return error.mean()
        w = torch.where(x > 0, self.w_occupied, 1.0)
        return (w * error).sum() / w.sum()

    # -- inference

    @torch.no_grad()
    def sample(self, y, steps=10, sampler="dbim", eta=0.0, times="uniform", churn=0.33,
               randn=torch.randn, states=None):  # fmt: skip
        """(scaled x_hat (B, *x_shape), NFE) from raw y.

        sampler "dbim" takes eta and times (see time_grid), "heun" takes churn. steps = 1 with dbim
        is D_x of the estimate at t = T: nothing random, the regression to compare samples with.
        states, a list, is given every z_t on the way at which the network is evaluated."""
        z_T = self.normed(self.E_y(self.scale_y(y)))
        memory = self.net.remember(z_T)  # the same at every step
        states = [] if states is None else states

        def denoise(z_t, t):
            states.append(z_t)
            t = torch.full((len(z_t),), t, dtype=torch.float64, device=z_t.device)
            return self.denoise(z_t, t, memory)

        if sampler == "heun":
            z_0 = heun(denoise, z_T, self.kernel, steps, churn, randn=randn)
        else:
            grid = time_grid(steps, self.kernel.T, times)
            z_0 = dbim(denoise, z_T, self.kernel, grid, eta, randn)
        return self.D_x(z_0), len(states)

    @torch.no_grad()
    def reconstruct(self, x):
        """D_x(E_x(x)), scaled: no sample can be better than what D_x makes of the true z_0."""
        return self.D_x(self.normed(self.E_x(self.scale_x(x))))


# --------------------------------------------------------------------------------------------------
# A bridge with a known answer


def best_guess(z_t, t, kernel, mean=0.6, std=0.4):
    """The best z0_hat there can be, E[z_0 | z_t, z_T], for z_T = 1 and z_0 ~ N(mean, std^2)."""
    if t == kernel.T:
        return torch.full_like(z_t, mean)  # z_t is z_T and tells nothing more
    a_t, b_t, std_t = kernel(t)
    seen = z_t - a_t  # b_t z_0 plus noise; weighted with the prior mean by their precisions
    return (mean * std_t**2 + std**2 * b_t * seen) / (std_t**2 + std**2 * b_t**2)


def demo(draws=20_000):
    """Prints mean and std of each sampler's z_0, with the best denoiser."""
    torch.manual_seed(0)
    z_T = torch.ones(draws, 1, 1)
    for kernel in (Kernel("vp"), Kernel("ve")):
        denoise = functools.partial(best_guess, kernel=kernel)
        print(f"\n{kernel.kind}: the answer is 0.600 +- 0.400 {'NFE 10':>10}{'20':>17}{'100':>19}")
        for times, eta in (("uniform", 0.0), ("karras", 0.0), ("uniform", 1.0), ("karras", 1.0)):
            row = f"DBIM eta {eta:g}, {times}".ljust(24)
            for S in (10, 20, 100):
                z_0 = dbim(denoise, z_T, kernel, time_grid(S, kernel.T, times), eta)
                row += f"{z_0.mean():12.3f} +- {z_0.std():.3f}"
            print(row)
        # Churn 0 is LD's release: a std of 0 means that a source has one answer.
        for steps, churn, nfe in ((4, 0.33, 11), (40, 0.33, 119), (40, 0.0, 79)):
            z_0 = heun(denoise, z_T, kernel, steps, churn)
            print(f"Heun, churn {churn}, NFE {nfe:<3} {z_0.mean():12.3f} +- {z_0.std():.3f}")


if __name__ == "__main__":
    demo()
