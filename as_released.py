"""
as_released.py: what the authors of MT ran, where it differs from what they printed.

Their public repository shows settings that the paper does not name, and some that it names
otherwise. Each is a switch here, so that it can be tried alone:

    python train.py --preset as-released                 all of them
    python train.py --released norm                      one, in our default
    python reproduce.py as-released                      one after the other, in a table

norm     Normalize of Eq. 6 divides by the norm of the whole batch, a matrix (B, h2), not by that of
         each row. One row of F then has a length of about 1 / sqrt(B): 0.06 for B = 256. With
         gamma = 1 beside a c M of length near 1, F hardly counts: one reading of MT's Table 7,
         where c M alone (0.8386; a constant answer has 0.7158) is as good as both (0.8394). theory/
         has what that reading explains and what it does not (G10).
l1       L_ddim is the mean |error| of eps, not the squared one of Eq. 2.
bias     M has no bias, and takes c with its mean still in it: that mean stands in for the bias.
zscore   The diffusion sees latents whose coordinates all have variance 1, each divided by its own
         standard deviation; Eq. 5 has the latents as they are. We divide by one number, which keeps
         angles, in both places.
guide    Guidance is no Eq. 4: two samples are drawn to the end, from two noises, one with c and one
         without, and then combined. With omega = 5 that is six times one sample minus five times
         another: mostly noise.
drop     Whether c is dropped is drawn once a batch, not once a row. Then L_recon is left out.
rows     t is uniform, and L_recon is measured on every row, through the whole sampler.

The rest are flags: the preset `as-released` in train.py sets them. lam1 and lam2 change places, for
the code multiplies L_ddim by lambda_1; --recon-steps 50; --ema 0, for the average is tracked and
never used; --unit. Two differences are in the evaluation alone, and not repeated: it scaled test
latents by statistics of the test latents themselves, and gave text prompts with other lengths.

Letters  B batch   h1 = dim c   h2 = dim z
"""

from torch import nn

from ddim_translator import ROWS_AT_T, Translator, guide

SWITCHES = ("norm", "l1", "bias", "zscore", "guide", "drop", "rows")


def switches_of(text):
    """("norm", "l1") of "norm,l1", all of them of "all". ValueError for a name that is none."""
    names = SWITCHES if text == "all" else tuple(name for name in text.split(",") if name)
    unknown = [name for name in names if name not in SWITCHES]
    if unknown:
        raise ValueError(f"no switch {unknown[0]!r}: there are {', '.join(SWITCHES)}, and all")
    return names


class Released(Translator):
    """Translator with some of the switches above; `how` as for Translator."""

    def __init__(self, h1, h2, switches, **how):
        super().__init__(h1, h2, **how)
        self.on = switches_of(switches)
        if "bias" in self.on:
            self.M = nn.Linear(h1, h2, bias=False)
        # One number for each coordinate, instead of one for all.
        if "zscore" in self.on:
            self.c_scale = self.c_scale.expand(h1).clone()
            self.r_scale = self.r_scale.expand(h2).clone()
        # phi stays 0, the mean of c: the authors have no learned "no condition".
        if "drop" in self.on:
            self.net.phi.requires_grad_(False)
        if "rows" in self.on:
            self.recon_rows = slice(None)

    def fit(self, found, lam=1e-6):
        # train.py refuses it before it comes to this; others may build a network without asking.
        if self.objective != "joint" and {"bias", "zscore"} & set(self.on):
            raise ValueError("the switches bias and zscore need --objective joint")
        super().fit(found, lam)
        # Eq. 5 has the latents themselves, and the diffusion has them divided, number by number.
        # 1e-6 of the largest: a constant coordinate has no standard deviation to divide by.
        if "zscore" in self.on:
            self.z_scale.fill_(1.0)
            c_var = found.c_var.clamp(min=1e-6 * found.c_var.max())
            z_var = found.z_var.clamp(min=1e-6 * found.z_var.max())
            self.c_scale.copy_(c_var.rsqrt())
            self.r_scale.copy_(z_var.rsqrt())

    def linear(self, c):
        if "bias" in self.on:
            c = c / self.c_scale + self.c_mean
        return self.M(c)

    def F(self, z_0, c):
        if "norm" not in self.on:
            return super().F(z_0, c)
        z_0 = z_0 / self.r_scale + self.centre(c)
        return z_0 / z_0.norm()  # of the whole matrix

    def ddim_error(self, difference):
        return difference.abs().mean() if "l1" in self.on else super().ddim_error(difference)

    def average_samples(self, c, K=1, steps=10, omega=0.0, **how):
        if "guide" not in self.on or omega == 0:
            return super().average_samples(c, K, steps, omega, **how)
        # omega = -1 is the network without c (see guide); each call draws noise of its own.
        with_c = super().average_samples(c, K, steps, 0.0, **how)
        without = super().average_samples(c, K, steps, -1.0, **how)
        return guide(with_c, without, omega)

    def loss(self, c, z, noise, gamma=1.0, lam1=1.0, lam2=2.0, recon_steps=1):
        if "rows" in self.on:
            if recon_steps == 1:
                raise ValueError("the switch rows needs --recon-steps 2 or more: see draw_noise")
            # draw_noise has put every few rows at t = T: these take the step of their neighbours.
            t = noise.t.clone()
            t[::ROWS_AT_T] = noise.t[1::ROWS_AT_T]
            noise = noise._replace(t=t)
        if "drop" in self.on:
            kept = noise.keep[0]
            noise = noise._replace(keep=kept.expand(len(c)))
            lam1 = lam1 if kept else 0.0
        return super().loss(c, z, noise, gamma, lam1, lam2, recon_steps)
