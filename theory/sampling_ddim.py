"""
sampling_ddim.py: does a DDIM sample? Eq. 3 of MT, and the scales that it needs. S1, S2, S3.

A sampler is right if its samples have the data's law; here we look at mean and variance. With a
trained network one could not tell the sampler's error from the network's. So there is none: the
data are Gaussian, and the best guess of z_0 from z_t is a formula. Per coordinate, z_0 ~ N(m, v):

    z_t  = sqrt(a) z_0 + sqrt(1 - a) eps            has the variance V_t = a v + 1 - a, a = alpha_t
    z0_hat = m + sqrt(a) v / V_t (z_t - sqrt(a) m)  is the mean of z_0 given z_t

That is linear in z_t, so one step of a sampler multiplies z_t's deviation from its mean by a
number, and all steps together by their product G. It starts from noise of variance 1: samples have
the variance G^2, and it should be v. No draw is needed.

Example: v = 1, where every z_t has variance 1, so that every step should multiply by 1. From
alpha_t = 0.25 to 0.36, DDIM multiplies by 0.993, a little too little; smaller steps mend that. The
step that MT prints multiplies by 1.05. Never by less than 1: the noise only grows.

Map      printed_step, sample          Eq. 3 to the letter; any step, many times
         chain, gain, printed_limit    G in closed form
         monte_carlo, claim_S1         the same by drawing; Eq. 3
         conditional, claim_S2         small latents
         linear_alpha, start_error, claim_S3    T and beta
Letters  v variance of a coordinate   a = alpha_t   T steps of the schedule   S steps at sampling
         G what a sampler multiplies its starting noise by   R cosine of z and its mean given c
"""

import math

import torch

from ddim_translator import ddim_step, make_alpha
from theory.report import NEEDS, Claim, listed, need

# MT Table 7, "w/o DDIM": the cosine of z and c M, here taken for that of z and E[z|c].
R = 0.8386
H2 = 512

# --------------------------------------------------------------------------------------------------
# S1: the second factor of Eq. 3


def printed_step(z_t, z0_hat, alpha_t, alpha_s):
    """Eq. 3 to the letter: sqrt(alpha_s) z0_hat + sqrt(1 - alpha_t) eps_hat, as ddim_step takes it.

    By Eq. 1 the second term is z_t - sqrt(alpha_t) z0_hat: all the noise that z_t has."""
    all_noise = z_t - alpha_t.sqrt() * z0_hat
    return alpha_s.sqrt() * z0_hat + all_noise


def sample(step, denoise, z_t, alpha, S):
    """From z_t at t = T to z_0 in S steps, at the levels of Translator.ddim_sample."""
    levels = torch.linspace(len(alpha) - 1, 0, S + 1).round().long().tolist()
    for t, s in zip(levels[:-1], levels[1:], strict=True):
        z_t = step(z_t, denoise(z_t, t), alpha[t], alpha[s])
    return z_t


def chain(a, v, printed=False):
    """G (...) of data of variance v (...) for levels a (..., S + 1) that rise from alpha_T to 1.

    DDIM: G^2 <= v / V_T for any steps; printed: G >= 1. Proof: README, S1."""
    v = torch.as_tensor(v, dtype=a.dtype)[..., None]
    t = a[..., :-1]  # the level a step comes from, (..., S)
    s = a[..., 1:]  # and the cleaner one it goes to
    # z0_hat and eps_hat are both multiples of z_t's deviation, by sqrt(t) v / V_t and
    # sqrt(1 - t) / V_t. The new z is sqrt(s) z0_hat + sqrt(kept) eps_hat.
    kept = 1 - (t if printed else s)
    V_t = t * v + 1 - t
    signal = (s * t).sqrt() * v
    noise = (kept * (1 - t)).sqrt()
    factors = (signal + noise) / V_t
    return factors.prod(-1)


def gain(v, S, alpha, printed=False):
    """G of S steps of a schedule alpha (T + 1,); a sample's variance is G^2, and should be v.

    Raises ValueError unless v > 0 and S is in 1..T."""
    T = len(alpha) - 1
    need(0 < v < math.inf, f"v = {v}: a variance is a number above 0")
    need(1 <= S <= T, f"S = {S}: between 1 and T = {T} steps")
    levels = torch.linspace(T, 0, S + 1).round().long()  # T, ..., 0, as in `sample`
    return chain(alpha[levels], v, printed).item()


def variance_ratio(v, S, alpha, printed=False):
    """Variance of the samples over that of the data: 1 for a sampler that samples."""
    return gain(v, S, alpha, printed) ** 2 / v


def printed_limit(v):
    """Variance ratio of Eq. 3 as printed in the limit of small steps, alpha_T -> 0."""
    return math.e if v == 1 else v ** (1 / (v - 1))


def monte_carlo(step, v, S, alpha, n=20_000, seed=0):
    """(variance ratio, its standard error) of n draws of data N(0, v) that go through `step`."""
    generator = torch.Generator().manual_seed(seed)
    z_T = torch.randn(n, 1, generator=generator, dtype=torch.float64)

    def denoise(z_t, t):  # the formula of z0_hat above, m = 0
        V_t = alpha[t] * v + 1 - alpha[t]
        return alpha[t].sqrt() * v / V_t * z_t

    ratio = sample(step, denoise, z_T, alpha, S).var().item() / v
    return ratio, ratio * math.sqrt(2 / n)


def claim_S1():
    """MT Eq. 3 is the step from t to t - 1, and its second factor is sqrt(1 - alpha_t).

    The check: the variance of the samples over that of the data, for two v, in 50 to 1000 steps;
    and by drawing. Printed, it tends to e = 2.7 for v = 1, and to 518 for the small v of unit-norm
    latents. DDIM's factor, sqrt(1 - alpha_{t-1}), tends to 1."""
    # alpha_0 = 1 is clean, alpha_1000 = 0.0003 is noise.
    alpha = make_alpha(1000)
    steps = (50, 250, 1000)
    printed = [variance_ratio(1, S, alpha, printed=True) for S in steps]
    ddim = [variance_ratio(1, S, alpha) for S in steps]
    small = [variance_ratio(1 / H2, S, alpha, printed=True) for S in steps]

    # 20,000 draws at S = 50: is the closed form that of the step?
    drawn_printed, se_printed = monte_carlo(printed_step, 1, 50, alpha)
    drawn_ddim, se_ddim = monte_carlo(ddim_step, 1, 50, alpha)
    agree = (
        abs(drawn_printed - printed[0]) < 5 * se_printed and abs(drawn_ddim - ddim[0]) < 5 * se_ddim
    )
    return Claim(
        "S1",
        "MT Eq. 3: the step z_{t-1} = sqrt(alpha_{t-1}) z0_hat + sqrt(1 - alpha_t) eps_hat, from "
        "t = T to 1, samples z.",
        "Presumably a misprint for sqrt(1 - alpha_{t-1}), DDIM's second factor. As printed no step "
        "removes noise: the variance stays at 1 or above, and tends to v^(v/(v-1)), instead of v. "
        "DDIM's tends to v, and is never above v / (1 - alpha_T).",
        f"variance over v at S = 50/250/1000: v = 1, printed {listed(printed)} (limit "
        f"{printed_limit(1):.3g}), DDIM {listed(ddim)}; v = 1/{H2}, printed {listed(small)} (limit "
        f"{printed_limit(1 / H2):.3g}); drawn, v = 1, S = 50: {drawn_printed:.3g}, "
        f"{drawn_ddim:.3g}",
        # As printed: in 1000 steps the variance would be right within 10 %.
        printed_holds=abs(printed[-1] - 1) < 0.1,
        # Ours: DDIM's is, from below, and draws agree with both closed forms.
        corrected_holds=agree
        and abs(ddim[-1] - 1) < 0.05
        and max(ddim) <= 1 / (1 - alpha[-1].item()),
    )


# --------------------------------------------------------------------------------------------------
# S2: small latents


def conditional(R, h2, S, alpha, scale=1.0):
    """(variance ratio, cosine to E[z|c]) of DDIM samples of z | c ~ N(R mu, (1 - R^2) / h2 I).

    |mu| = 1, so |z| is about 1 and a true sample's cosine about R. DDIM sees scale z: the mean
    comes out as (1 - sqrt(alpha_T) G) R mu, the spread as G / scale; cosine up to O(1 / h2).
    Raises ValueError unless 0 < R < 1, h2 >= 2 and scale > 0."""
    need(0 < R < 1, f"R = {R}: a cosine between 0 and 1, both excluded")
    need(h2 >= 2, f"h2 = {h2}: at least 2 numbers a latent")
    need(0 < scale < math.inf, f"scale = {scale}: a number above 0")
    v = (1 - R**2) / h2  # of a coordinate, in the latents' own unit
    G = gain(v * scale**2, S, alpha)
    # z_T has no trace of the mean, though it should have sqrt(alpha_T) of it: G times that is lost.
    mean = (1 - alpha[-1].sqrt().item() * G) * R
    variance = G**2 / scale**2
    length = math.sqrt(mean**2 + h2 * variance)  # of a sample
    return variance / v, mean / length


def claim_S2():
    """MT Eq. 1-3 diffuse the embeddings as they are; neither their scale nor S is stated.

    The check: CLIP's unit latents have coordinates of size 1/sqrt(512) = 0.04, and the smallest
    noise of the schedule is 0.09. The last step takes it off at once, to the mean: what comes out
    has 7 % of the variance even in 1000 steps. Times sqrt(h2) the same sampler samples."""
    steps = (10, 50, 1000)
    alpha = make_alpha(1000)
    unscaled = [conditional(R, H2, S, alpha) for S in steps]
    scaled = [conditional(R, H2, S, alpha, math.sqrt(H2)) for S in steps]
    small, cos_small = zip(*unscaled, strict=True)
    unit, cos_unit = zip(*scaled, strict=True)

    # Without scaling it takes a schedule whose first steps are h2 times finer.
    long = 1000 * H2
    patient, _ = conditional(R, H2, long, make_alpha(long))
    return Claim(
        "S2",
        "MT Eqs. 1-3: CDIM(c), a DDIM of the embeddings as they are, samples p(z|c). Their scale "
        "and the number of steps S are not stated.",
        "The last steps' noise must be small against the latents' own spread: 1 - alpha_1 << v. "
        "Unit-norm latents have v < 1/h2 and come out near their conditional mean: good for a "
        "cosine, no sample. Times sqrt(h2), many steps sample; unscaled, h2 times as many.",
        f"h2 = {H2}, R = {R}, S = 10/50/1000: unscaled, variance ratio {listed(small)}, cosine to "
        f"the mean {listed(cos_small)}; scaled, {listed(unit)} and {listed(cos_unit)}; a true "
        f"sample has 1 and {R}. Unscaled with S = T = {long}: variance ratio {patient:.3g}",
        # As printed: the variance of unscaled latents would be right at each S.
        printed_holds=all(abs(ratio - 1) < 0.1 for ratio in small),
        # Ours: it is for scaled ones in 1000 steps, and for the very patient.
        corrected_holds=all(abs(ratio - 1) < 0.1 for ratio in (unit[-1], patient))
        and abs(cos_unit[-1] - R) < 0.01,
        kind=NEEDS,
    )


# --------------------------------------------------------------------------------------------------
# S3: T and beta


def linear_alpha(T, scaled=False):
    """alpha_t (T + 1,) of beta = 1e-4 ... 0.02, DDPM's at T = 1000; scaled: beta times 1000 / T.

    Raises ValueError for T < 2, or T < 21 if scaled: beta would reach 1."""
    low = 21 if scaled else 2
    need(T >= low, f"T = {T}: this schedule needs T >= {low}")
    beta = torch.linspace(1e-4, 0.02, T, dtype=torch.float64) * (1000 / T if scaled else 1)
    one = torch.ones(1, dtype=torch.float64)
    return torch.cat([one, (1 - beta).cumprod(0)])


def start_error(alpha, m=1.0, v=1.0):
    """What T steps of DDIM from N(0, 1) get wrong because z_T is not N(0, 1). A tuple of

    share of the mean m that is lost, sqrt(alpha_T) G; variance ratio, G^2 / v; KL divergence of
    z_T's law from N(0, 1), in nats. Proof: README, S3."""
    a = alpha[-1].item()
    G = gain(v, len(alpha) - 1, alpha)
    V = a * v + 1 - a
    kl = (V + a * m**2 - 1 - math.log(V)) / 2
    return math.sqrt(a) * G, G**2 / v, kl


def claim_S3():
    """MT 2.2: noise is added for T steps, and sampling starts at N(0, I). T and beta are not given.

    The check: DDPM's well-known beta, 0.0001 to 0.02, belongs to T = 1000. Copied to T = 50 it ends
    at alpha_T = 0.60: z_T is mostly signal. A sampler that starts from pure noise loses 77 % of the
    mean. If beta grows as 1000 / T, or by our make_alpha, next to nothing is lost."""

    def scaled_alpha(T):
        return linear_alpha(T, scaled=True)

    schedules = {"copied": linear_alpha, "scaled": scaled_alpha, "ours": make_alpha}
    lost, kl, ends = {}, {}, {}
    for name, schedule in schedules.items():
        # At each T: what is lost, how far z_T is from noise, and alpha_T.
        alphas = [schedule(T) for T in (50, 250, 1000)]
        errors = [start_error(alpha) for alpha in alphas]
        lost[name] = [share for share, _, _ in errors]
        kl[name] = [divergence for _, _, divergence in errors]
        ends[name] = listed(alpha[-1].item() for alpha in alphas)
    return Claim(
        "S3",
        "MT Sec. 2.2: noise is added for T steps; sampling is taken to start at N(0, I). Neither T "
        "nor beta is given.",
        "alpha_T must be near 0, so beta grows as 1000 / T. DDPM's beta, copied to a smaller T, "
        "leaves signal in z_T, and a sampler that starts without it loses about sqrt(alpha_T) of "
        "the mean.",
        f"T = 50/250/1000, m = v = 1. DDPM's beta copied: alpha_T {ends['copied']}, share of "
        f"the mean lost {listed(lost['copied'])}, KL of z_T and N(0, 1) {listed(kl['copied'])} "
        f"nats. Times 1000 / T: alpha_T {ends['scaled']}, lost {listed(lost['scaled'])}; "
        f"make_alpha: {ends['ours']}, lost {listed(lost['ours'])}",
        # As printed, that is, without a word on beta: the copied one would do.
        printed_holds=max(lost["copied"]) < 0.05,
        # Ours: both schedules that grow with 1000 / T lose less than 5 % at any T.
        corrected_holds=max(lost["scaled"] + lost["ours"]) < 0.05,
        kind=NEEDS,
    )
