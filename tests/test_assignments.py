"""
The exercises themselves: stubs fail, an answer passes, and each listed mistake is named.

    pytest -m slow tests/test_assignments.py -k ex02

ANSWERS are derived in another way than the reference's code, and no better to read: this file is
for maintainers. MISTAKES: what stands in the answer, what a student may write instead, and words
of what the student is told. Each grade is a process of its own, as for a student.
"""

import os
import re
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from grading import STUBS

ROOT = Path(__file__).parent.parent
ANSWERS, MISTAKES = {}, {}

# -- the noise schedule

ANSWERS["ex01"] = """
import torch

def linear_alpha(T):
    if T <= 20:
        raise ValueError("T")
    beta = (0.1 + 19.9 * torch.arange(T, dtype=torch.float64) / (T - 1)) / T
    return torch.cat([torch.zeros(1).double(), torch.log1p(-beta).cumsum(0)]).exp()

def noised(z_0, eps, alpha_t):
    angle = torch.arccos(alpha_t.sqrt())
    return angle.cos() * z_0 + angle.sin() * eps
"""
MISTAKES["ex01"] = [
    ("arange(T, dtype=torch.float64) / (T - 1)) / T", "arange(T).double() / (T - 1)) / 1000", "beta wants 1000 / T"),
    (".cumsum(0)", "", "product over all steps"),
    ("torch.cat([torch.zeros(1).double(), torch.log1p(-beta).cumsum(0)])", "torch.log1p(-beta).cumsum(0)", "step 0 is clean"),
    ("cumsum(0)])", "cumsum(0)]).div(2)", "not an amplitude"),
    ("T <= 20", "T <= 2", "T = 20 has beta = 1"),
    ("angle.cos() * z_0 + angle.sin()", "angle.cos() ** 2 * z_0 + angle.sin() ** 2", "no square roots"),
    ("angle.cos() * z_0 + angle.sin()", "angle.sin() * z_0 + angle.cos()", "changed places"),
]  # fmt: skip

# -- the DDIM step: as an update of z_t, not of the two estimates

ANSWERS["ex02"] = """
import torch

def ddim_step(z_t, z0_hat, alpha_t, alpha_s, eta=0.0, noise=None):
    v, w = 1 - alpha_t, 1 - alpha_s
    fresh = eta * eta * (w / v - w * alpha_t / (v * alpha_s))
    ratio = ((w - fresh).clamp(min=0) / v).sqrt()
    z_s = ratio * z_t + (alpha_s.sqrt() - ratio * alpha_t.sqrt()) * z0_hat
    return z_s if noise is None else z_s + fresh.sqrt() * noise
"""
MISTAKES["ex02"] = [
    ("(w - fresh)", "(v - fresh)", "the misprint"),
    ("(w - fresh)", "w", "did not subtract"),
    ("z_s + fresh.sqrt() * noise", "z_s", "the fresh noise is not added"),
    ("(w / v - w * alpha_t / (v * alpha_s))", "(1 - alpha_t / alpha_s)", "sigma is too large"),
    ("(w / v - w * alpha_t / (v * alpha_s))", "(1 - alpha_t / alpha_s)", "noise at the last step"),
    ("fresh = eta * eta", "fresh = eta", "eta scales sigma, not sigma^2"),
    ("fresh = eta * eta", "fresh = 0 * eta", "eta changes nothing"),
    ("(w / v - w * alpha_t / (v * alpha_s))", "(w / v - w * alpha_t / (v * alpha_s)) ** 2", "a root is missing"),
    ("z_s = ratio * z_t +", "z_t *= ratio\n    z_s = z_t +", "in place"),
    ("(alpha_s.sqrt() - ratio", "(alpha_s - ratio", "without its square root"),
]  # fmt: skip

# -- guidance: along e_c - e_0; the two weights by probing

ANSWERS["ex03"] = """
import torch

def guide(e_c, e_0, omega):
    return torch.lerp(e_0, e_c, 1.0 + omega)

def measure_omega(mix):
    g = torch.Generator().manual_seed(3)
    e = torch.randn(1, 4, generator=g, dtype=torch.float64)
    if not torch.allclose(mix(e, e), e, atol=1e-4):
        raise ValueError("weights")
    return -float(mix(0 * e, e).sum() / e.sum())
"""
MISTAKES["ex03"] = [
    ("1.0 + omega", "1.0 * omega", "this is diffusers' guidance_scale"),
    ("e_0, e_c, 1.0", "e_c, e_0, 1.0", "changed places"),
    ("e_0, e_c, 1.0 + omega", "e_c, e_0, 0.0 + omega", "guidance goes away from it"),
    ("torch.lerp(e_0, e_c, 1.0 + omega)", "(1 + omega) * e_c + omega * e_0", "do not add up to 1"),
    ("torch.lerp(e_0, e_c, 1.0 + omega)", "torch.cat([torch.lerp(e_0, e_c, 1.0 + omega)[:, :3], e_c[:, 3:]], 1)", "some columns are guided"),
    ("-float(mix(0 * e, e)", "float(mix(e, 0 * e)", "the weight of e_c, 1 + omega"),
    ("-float", "float", "the weight of e_0, -omega"),
    ('raise ValueError("weights")', "pass", "moves where e_c = e_0: no guidance"),
]  # fmt: skip

# -- what a network may predict: a rotation by an angle, and derivatives by finite steps

ANSWERS["ex04"] = """
import torch

def turn(alpha_t):
    angle = torch.arccos(alpha_t.sqrt())
    return angle.cos(), angle.sin()

def v_target(z_0, eps, alpha_t):
    r, w = turn(alpha_t)
    return r * eps - w * z_0

def z0_from_v(v, z_t, alpha_t):
    r, w = turn(alpha_t)
    return (z_t / w - v / r) / (r / w + w / r)

def u_target(z_0, eps):
    return -z_0 + eps

def z0_from_u(u, z_t, alpha_t):
    r, w = turn(alpha_t)
    return (z_t - w * u) / (r + w)

def loss_weights(alpha_t):
    r, w = turn(alpha_t)
    eps = -r / w
    return eps**2, (r * eps - w)**2, (eps - 1)**2
"""
MISTAKES["ex04"] = [
    ("r * eps - w * z_0", "w * z_0 - r * eps", "this is -v"),
    ("z_t / w - v / r", "z_t / w + v / r", "v's sign"),
    ("z_t / w - v / r", "z_t / r - v / w", "coefficients of z_t and v"),
    ("(z_t / w - v / r) / (r / w + w / r)", "r**2 * z_t - w**2 * v", "roots are missing"),
    ("-z_0 + eps", "z_0 - eps", "this is -u"),
    ("(z_t - w * u) / (r + w)", "z_t - w * u", "not divided"),
    ("(z_t - w * u) / (r + w)", "z_t - w**2 * u", "flow matching's z_t"),
    ("return eps**2", "return 1 / eps**2", "w_eps is upside down"),
    ("(eps - 1)**2", "1 - eps", "w_u is not squared"),
    ("(eps - 1)**2", "1 + eps**2", "w_u lacks the mixed term"),
    ("(r * eps - w)**2", "w**2", "w_v with eps held"),
]  # fmt: skip

# -- gamma: in the plane of cM and F, by solving 2 x 2 systems; the squared error by its slope

ANSWERS["ex05"] = """
import math
import torch

def plane(cM, F, z):
    \"\"\"Coordinates in the plane of cM and F, the first axis along cM: cM, F, z's part.\"\"\"
    x = cM[0] / cM[0].norm()
    y = F[0] - (F[0] @ x) * x
    y = y / y.norm()
    return [(float(a[0] @ x), float(a[0] @ y)) for a in (cM, F, z)]

def gamma_star(cM, F, z):
    (a, _), (k, f), (x, y) = plane(cM, F, z)
    if y <= 0:
        return 0.0
    if x * f - y * k <= 0:
        return math.inf
    return y * a / (x * f - y * k)

def gamma_l2(cM, F, z):
    slope = ((z - cM) * F).sum(1).mean()
    return max(slope.item(), 0.0)

def break_even(cM, F, z):
    (a, _), (k, f), (x, y) = plane(cM, F, z)
    up, along = 2 * x * y, x * x - y * y
    if y <= 0:
        return 0.0
    if along * f - up * k <= 0:
        return math.inf
    return up * a / (along * f - up * k)
"""
MISTAKES["ex05"] = [
    ("return y * a / (x * f - y * k)", "return a * (k * x + f * y) / x", "right only if F is orthogonal"),
    ("return y * a / (x * f - y * k)", "return y / (x * f - y * k)", "|cM| is left out"),
    ("    if y <= 0:\n        return 0.0\n    if x * f", "    if x * f", "no floor: F hurts here"),
    ("    if x * f - y * k <= 0:\n        return math.inf\n", "", "the cosine grows for ever"),
    ("return y * a / (x * f - y * k)", "return gamma_l2(cM, F, z)", "the best cosine was asked for"),
    ("return y * a / (x * f - y * k)", "return break_even(cM, F, z)", "this is the break-even"),
    ("max(slope.item(), 0.0)", "slope.item()", "no floor: gamma >= 0"),
    (".sum(1).mean()", ".sum(1)[:, None].clamp(min=0).mean()", "the floor comes before the mean"),
    ("(z - cM) * F", "z * F", "this fits z"),
    ("return up * a / (along * f - up * k)", "return gamma_star(cM, F, z)", "this is gamma*, the best"),
    ("return up * a /", "return y * x * a /", "half of it"),
    ("    if along * f - up * k <= 0:\n        return math.inf\n", "", "never comes back: inf, not below 0"),
]  # fmt: skip

# -- M: by the normal equations; the formula by what F leaves of z

ANSWERS["ex06"] = """
import torch

def best_M(c, z, F, gamma):
    left = z - gamma * F
    return torch.linalg.solve(c.T @ c, c.T @ left)

def size_of_M(gamma, norm):
    return (norm - gamma) / norm

def collapsing(z):
    return 1 / z.norm(dim=1).mean().item(), 1.0

def safe_scale(z):
    return z.var(0).mean().rsqrt()
"""
MISTAKES["ex06"] = [
    ("left = z - gamma * F", "left = z", "this is M_hat"),
    ("left = z - gamma * F", "left = z + gamma * F", "F's sign"),
    ("c.T @ left)", "c.T @ left).T", "this is M transposed"),
    ("(norm - gamma) / norm", "1 - gamma * norm", "gamma times norm"),
    ("(norm - gamma) / norm", "1 - gamma", "that is for |z| = 1"),
    ("(norm - gamma) / norm", "max(0.0, 1 - gamma / norm)", "cut off at 0"),
    ("1 / z.norm(dim=1).mean().item(), 1.0", "1.0, 1.0", "gamma = scale"),
    ("1 / z.norm(dim=1)", "z.norm(dim=1)", "upside down"),
    ("1 / z.norm(dim=1).mean().item()", "safe_scale(z)", "that is the remedy"),
    ("z.var(0).mean().rsqrt()", "z.var(0).rsqrt()", "one scale per coordinate"),
    ("z.var(0).mean().rsqrt()", "1 / z.norm(dim=1).mean()", "M collapses"),
    ("z.var(0).mean().rsqrt()", "z.square().mean().rsqrt()", "the mean is not taken off"),
]  # fmt: skip

# -- the bridge's pins: the joint Gaussian of (z_t, z_T), not the product of two

ANSWERS["ex07"] = """
import torch

def pinned(s_t, rho2_t, s_T, rho2_T):
    cov = s_t * s_T * rho2_t
    gain = cov / (s_T**2 * rho2_T)
    var = s_t**2 * rho2_t - gain * cov
    return gain, s_t - gain * s_T, var.clamp(min=0).sqrt()
"""
MISTAKES["ex07"] = [
    ("rho2_t - gain * cov", "rho2_t", "std_t is not 0 at T"),
    ("gain, s_t - gain * s_T,", "s_t - gain * s_T, gain,", "changed places"),
    ("cov / (s_T**2 * rho2_T)", "rho2_t / rho2_T", "right for VE only: z_T"),
    ("s_t * s_T * rho2_t", "s_t**2 * rho2_t", "is not var(z_t)"),
    ("cov / (s_T**2 * rho2_T)", "(rho2_t / rho2_T).sqrt() * s_t / s_T", "a_t has rho_t / rho_T"),
    ("s_t - gain * s_T", "s_t", "b_t leaves z_0 in the mean at T"),
    ("s_t - gain * s_T", "1 - gain", "need not add up to 1"),
    ("s_t - gain * s_T", "1 - rho2_t / rho2_T", "right for VE only: z_0"),
    (".clamp(min=0).sqrt()", "", "this is the variance"),
    ("cov / (s_T**2 * rho2_T)", "s_t / s_T / (1 / rho2_t + 1 / (rho2_T - rho2_t)) / (rho2_T - rho2_t)", "do not divide by them"),
    ("var.clamp(min=0).sqrt()", "s_t * rho2_t.sqrt() * (1 - rho2_t / rho2_T)", "without its root"),
]  # fmt: skip

# -- DBIM: as an update of z_t, and the boot as the same step with nothing kept

ANSWERS["ex08"] = """
import torch

def dbim(denoise, z_T, kernel, times, eta=0.0, randn=torch.randn):
    z = z_T
    for n, (t, s) in enumerate(zip(times, times[1:])):
        z0_hat = denoise(z, t)
        (a, b, std), (a_s, b_s, std_s) = kernel(t), kernel(s)
        markov = (std_s**2 - (std * a_s / a) ** 2).clamp(min=0).sqrt()
        fresh = std_s if n == 0 else eta * markov
        keep = 0 if n == 0 else (std_s**2 - fresh**2).clamp(min=0).sqrt() / std
        noise = fresh * randn(z_T.shape, device=z_T.device)
        z = keep * z + (a_s - keep * a) * z_T + (b_s - keep * b) * z0_hat + noise
    return z

def evaluations(sampler, steps, churn=0.0):
    if sampler not in ("dbim", "heun"):
        raise ValueError(sampler)
    each = {"dbim": 1, "heun": 3 if churn else 2}[sampler]
    return each * steps - (each > 1)
"""
MISTAKES["ex08"] = [
    ("std_s if n == 0", "0 * std_s if n == 0", "no booting noise"),
    ("keep = 0 if n == 0 else", "keep =", "eps_hat is 0 / 0"),
    ("(std_s**2 - fresh**2).clamp(min=0).sqrt() / std", "std_s / std", "is not subtracted"),
    ("(std_s**2 - fresh**2).clamp(min=0).sqrt() / std", "(std_s - fresh) / std", "not std"),
    ("eta * markov", "eta * std_s", "not Markov"),
    ("eta * markov", "eta**0.5 * markov", "eta scales fresh"),
    ("fresh = std_s if n == 0 else eta * markov", "fresh = std_s if n == 0 else eta * std", "noise at the last step"),
    ("(a_s - keep * a) * z_T", "-keep * a * z_T", "forgets a_s z_T"),
    ("(a_s - keep * a) * z_T", "a_s * z_T", "eps_hat has a_t z_T in it"),
    (" + noise", " + (noise if n == 0 else 0)", "no fresh noise is added"),
    ("3 if churn else 2", "1", "counted once a step"),
    ("- (each > 1)", "", "is Euler's"),
    ("3 if churn else 2", "2", "one evaluation more"),
    ("- (each > 1)", "+ (1 - 2 * (each > 1))", "the boot costs one"),
]  # fmt: skip

# -- InfoNCE: by logsumexp of the scores

ANSWERS["ex09"] = """
import torch

def info_nce(z_0, z_T, tau):
    return info_nce_twins(z_0, z_T, tau, torch.arange(len(z_0)))

def info_nce_twins(z_0, z_T, tau, twins):
    u, v = z_0.flatten(1), z_T.flatten(1)
    u, v = u / u.norm(dim=1, keepdim=True), v / v.norm(dim=1, keepdim=True)
    S, own = u @ v.T / tau, torch.eye(len(u)).bool()
    S = S.masked_fill((twins[:, None] == twins) & ~own, -torch.inf)
    right = S.diagonal()
    return ((S.logsumexp(1) - right) + (S.logsumexp(0) - right)).mean() / 2
"""
MISTAKES["ex09"] = [
    ("return ((S", "return -((S", "the printed sign"),
    ("v.T / tau", "v.T * tau", "tau is multiplied"),
    ("(S.logsumexp(0) - right)", "(S.logsumexp(1) - right)", "one direction only"),
    ("u / u.norm(dim=1, keepdim=True), v / v.norm(dim=1, keepdim=True)", "u, v", "not made unit vectors"),
    ("u, v = z_0.flatten(1), z_T.flatten(1)\n    u, v = u / u.norm(dim=1, keepdim=True), v / v.norm(dim=1, keepdim=True)", "u, v = ((z / z.norm(dim=2, keepdim=True)).flatten(1) for z in (z_0, z_T))", "unit vectors, not items"),
    (".mean() / 2", ".sum() / 2", "a sum over the batch"),
    (".mean() / 2", ".mean()", "twice as large"),
    ("(twins[:, None] == twins) & ~own", "own & ~own", "twins still count as negatives"),
    (" & ~own", "", "its own pair has to stay"),
    ("-torch.inf", "0.0", "put -inf"),
    ("right = S.diagonal()\n    return ((S.logsumexp(1) - right) + (S.logsumexp(0) - right)).mean()", "right, S = (u @ v.T / tau).masked_fill(twins[:, None] != twins, -torch.inf), u @ v.T / tau\n    return (S.logsumexp(1) - right.logsumexp(1) + S.logsumexp(0) - right.logsumexp(0)).mean()", "a second positive"),
]  # fmt: skip

# -- turns: by parts, not by names of parameters

ANSWERS["ex10"] = """
import torch

def freeze(bridge, turn):
    moving = {"bridge": ["net"], "both": ["net", "E_x", "E_y", "D_x", "D_y"]}
    for name, part in bridge.named_children():
        part.requires_grad_(name in moving.get(turn, ["E_x", "E_y", "D_x", "D_y"]))

def turn_step(bridge, optimizer, y, x, noise, turn):
    optimizer.zero_grad(set_to_none=True)
    loss = bridge.loss(y, x, noise, turn)[0]
    loss.backward()
    optimizer.step()
    return loss.item()
"""
MISTAKES["ex10"] = [
    ("part.requires_grad_(name in", "print(name in", "nothing is frozen"),
    ("part.requires_grad_(name in", "part.requires_grad_(turn != 'both' and name not in", "changed places"),
    ("part.requires_grad_(name in moving", "if name not in moving.get(turn, ['E_x', 'E_y', 'D_x', 'D_y']): part.requires_grad_(name in moving", "set back to True"),
    ('["E_x", "E_y", "D_x", "D_y"]))', '["E_x", "E_y", "D_x"]))', "D_y, which is there"),
    ('{"bridge": ["net"], "both"', '{"bridge": ["net"], "apart": ["net", "E_x", "E_y", "D_x", "D_y"], "both"', "turn 'apart': nothing is frozen"),
    ("def turn_step", "    if turn == 'modality': bridge.denoise = torch.no_grad()(bridge.denoise)\n\ndef turn_step", "cuts the graph"),
    ("    optimizer.zero_grad(set_to_none=True)\n", "", "one of an earlier turn"),
    ("set_to_none=True", "set_to_none=False", "is 0, not None"),
    ("    optimizer.step()\n", "", "does the optimizer step"),
    ("    optimizer.step()\n", "    optimizer.zero_grad()\n    optimizer.step()\n", "no parameter moves"),
    ("    optimizer.step()\n", "    torch.optim.AdamW(bridge.parameters(), 0.01).step()\n", "momentum is lost"),
    ("loss.item()", "loss", "not a float"),
]  # fmt: skip

# -- retrieval: by sorting the wrong items, and by a product of chances

ANSWERS["ex11"] = """
import torch

def unit(x):
    length = x.square().sum(1, keepdim=True).sqrt()
    return x / length.clamp(min=1e-12)

def ranks(queries, gallery, positives):
    out = []
    for x, right in zip(unit(queries), positives):
        if len(right) == 0:
            raise ValueError("no right answer")
        s = unit(gallery) @ x
        best = s[right].amax()
        wrong = s[[i for i in range(len(s)) if i not in right]].sort().values
        below = torch.searchsorted(wrong, best[None], right=False).item()
        out.append(1 + len(wrong) - below)
    return torch.tensor(out)

def recall_at_k(rank, k):
    return 1 - sum(n > k for n in rank.tolist()) / len(rank)

def chance_recall(G, p, k):
    missed = 1.0
    for i in range(k):
        missed *= max(0, G - p - i) / (G - i)
    return 1 - missed

def centred_cosine(z_hat, z, mean):
    a, b = unit(z_hat - mean), unit(z - mean)
    return 1 - (a - b).square().sum(1).mean() / 2 - ((a * a).sum(1) == 0).float().mean() / 2
"""
MISTAKES["ex11"] = [
    ("right=False", "right=True", "a tie counts for the query"),
    ("[i for i in range(len(s)) if i not in right]", "torch.arange(len(s)) != right[s[right].argmax()]", "other right answers compete"),
    ("s[right].amax()", "s[right[0]]", "only the first right answer"),
    ("1 + len(wrong)", "len(wrong)", "ranks start at 0"),
    ("s = unit(gallery) @ x", "s = gallery @ x", "this is the dot product"),
    (" / length.clamp(min=1e-12)", " / length", "0 / 0 is NaN"),
    ('raise ValueError("no right answer")', "right = [0]", "has no rank"),
    ("n > k", "n >= k", "<=, not <"),
    ("return 1 - missed", "return k * p / G", "twice"),
    ("return 1 - missed", "return 1 - (1 - p / G) ** k", "draws an item again"),
    ("unit(z_hat - mean), unit(z - mean)", "unit(z_hat - mean), unit(z)", "from the answers only"),
]  # fmt: skip

# -- three tests: a denoiser that counts its calls, unit impulses, a gallery of equals

ANSWERS["ex12"] = """
import torch

def kills_1(f):
    for T, steps in ((9, 1), (9, 3), (10, 4), (20, 7)):
        calls = []
        def denoise(z_t, t):
            calls.append(t)
            return torch.full_like(z_t, len(calls))
        out = f(denoise, torch.randn(5, 3), 0.8 ** torch.arange(T + 1.0), steps)
        assert calls == [round(T * (steps - k) / steps) for k in range(steps)]
        assert abs(out - steps).max() < 1e-4

def kills_2(f):
    now, then = (0.5, 0.4, 0.6), (0.3, 0.7, 0.5)
    zero, one = torch.zeros(2, 3), torch.ones(2, 3)
    for eta in (0.0, 0.5, 1.0):
        kept = f(0.6 * one, zero, zero, now, then, eta, zero)
        fresh = f(zero, zero, zero, now, then, eta, one)
        assert abs(kept ** 2 + fresh ** 2 - 0.5 ** 2).max() < 1e-5
        mean = f(0.5 * one + 0.8, one, 2 * one, now, then, eta, zero)
        assert abs(mean - 1.7).max() < 1e-5

def kills_3(f):
    q, g = torch.randn(4, 5), torch.eye(5)[[0, 0, 0, 0, 0, 0]]
    assert f(q, g, torch.arange(4)).tolist() == [6] * 4
    assert f(torch.eye(5), torch.eye(5), torch.arange(5)).tolist() == [1] * 5
"""
MISTAKES["ex12"] = [
    ("assert calls == [round(T * (steps - k) / steps) for k in range(steps)]\n        assert abs(out - steps).max() < 1e-4", "assert out.shape == (5, 3) and out.isfinite().all()", "kills_1 is content with planted_1"),
    ("((9, 1), (9, 3), (10, 4), (20, 7))", "((9, 1), (9, 3))", "an unseen relative: the last level"),
    ("(0.0, 0.5, 1.0)", "(1.0,)", "an unseen relative: the variance"),
    ("torch.arange(4)", "torch.full((4,), 5)", "an unseen relative: of equal items"),
    ("abs(mean - 1.7).max() < 1e-5", "torch.equal(mean, torch.full((2, 3), 1.7))", "kills_2 refuses another right function"),
    ("[6] * 4", "[1] * 4", "kills_3 refuses a right function, at line"),
    ("f(q, g, torch.arange(4))", "f(q, g)", "kills_3 stops with TypeError"),
    ("    assert f(torch.eye(5)", "    return f(torch.eye(5)", "kills_3 returns True"),
]  # fmt: skip

# -- the scoreboard: an MLP whose schedule is the clock

ANSWERS["ex13"] = """
import math
import time

import torch
from torch import nn

def translate(c, z, c_val, z_val, c_new, seconds):
    start = time.perf_counter()
    torch.manual_seed(0)
    scale = lambda x: (x - c.mean(0)) / c.std(0).clamp(min=c.std() / 3)
    mean, size, h = z.mean(0), (z - z.mean(0)).square().mean().sqrt(), 512
    x, y, width = scale(c), (z - mean) / size, z.shape[1]
    block = lambda n: [nn.Linear(n, h), nn.LayerNorm(h), nn.SiLU()]
    net = nn.Sequential(*block(c.shape[1]), *block(h), *block(h), nn.Linear(h, width))
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.05)
    while (spent := (time.perf_counter() - start) / (0.9 * seconds)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, 20 * spent) * math.cos(math.pi / 2 * spent)
        i = torch.randint(len(x), (256,))
        loss = (net(x[i]) - y[i]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return net(scale(c_new)) * size + mean
"""
MISTAKES["ex13"] = [
    ("return net(scale(c_new)) * size + mean", "return mean.expand(len(c_new), -1)", "the constant"),
    ("scale(c_new)", "scale(c_new).flip(0)", "are the rows in another order"),
    ("return net(scale(c_new))", "return net(scale(c_new[:-1]))", "shape (299, 11), it should be (300, 11)"),
    ("size + mean", "size / 0 + mean", "NaN or Inf in 300 of 300 rows"),
    ("while (spent :=", "time.sleep(seconds + 3)\n    while (spent :=", "over time"),
    ("*block(c.shape[1]), *block(h), *block(h), nn.Linear(h, width)", "nn.Linear(c.shape[1], width)", "this is ridge's score"),
    ("size + mean", "size / 20 + mean", "below ridge"),
]  # fmt: skip

# -- DBIM of order 2: by the weights that are exact for z0_hat = 1 and z0_hat = lam

ANSWERS["ex14"] = """
import torch

def dbim2(denoise, z_T, kernel, times, randn=torch.randn):
    a, b, std = kernel(times[1])
    z = a * z_T + b * denoise(z_T, times[0]) + std * randn(z_T.shape, device=z_T.device)
    lam_u = None
    for t, s in zip(times[1:], times[2:]):
        new, (a, b, std), (a_s, b_s, std_s) = denoise(z, t), kernel(t), kernel(s)
        if s == 0:
            return new
        r, lam, lam_s = std_s / std, torch.log(b / std), torch.log(b_s / std_s)
        of_1 = b_s - r * b
        of_lam = b_s * (lam_s - 1) - r * b * (lam - 1)
        on_old = 0 if lam_u is None else (of_lam - lam * of_1) / (lam_u - lam)
        z = r * z + (a_s - r * a) * z_T + (of_1 - on_old) * new + on_old * (0 if lam_u is None else old)
        old, lam_u = new, lam
    return z
"""
MISTAKES["ex14"] = [
    ("b * denoise(z_T, times[0]) + std * randn(z_T.shape, device=z_T.device)", "b * denoise(z_T, times[0])", "z after the boot is off"),
    ("old, lam_u = new, lam", "old = new", "this is order 1"),
    ("/ (lam_u - lam)", "/ (lam - lam_u)", "the slope has the wrong sign"),
    ("/ (lam_u - lam)", "/ (lam - lam_s)", "not the one to come"),
    ("(of_lam - lam * of_1)", "of_1 * (lam_s - lam) / 2", "DPM-Solver++"),
    ("(of_lam - lam * of_1)", "b_s * (lam_s - lam) ** 2 / 2", "right for small h only"),
    ("(a_s - r * a)", "a_s", "z_T's own weight is less"),
    ("if s == 0:", "if s < 0:", "infinite at s = 0"),
    ("lam_u = None\n", "old, lam_u = 0 * z, torch.tensor(torch.nan)\n", "T has no lambda"),
    ("z = r * z +", "z = r * z + 0 * randn(z_T.shape) +", "randn is called"),
    ("new, (a, b, std), (a_s, b_s, std_s) = denoise(z, t)", "new, (a, b, std), (a_s, b_s, std_s) = (denoise(z, t) + denoise(z, t)) / 2", "one evaluation at each"),
]  # fmt: skip

# -- a set on which ridge loses: two products, and a coin that leaves two answers to each query

ANSWERS["ex15"] = """
import torch

def draw_pairs(n, seed):
    g = torch.Generator().manual_seed(seed)
    c = 2 * torch.rand(n, 3, generator=g) - 1
    coin = 2.0 * torch.randint(2, (n, 1), generator=g) - 1
    return c, best_answer(c) + 0.5 * coin * torch.tensor([1.0, -1.0])

def best_answer(c):
    x, y, w = c.T
    return torch.stack([x + 2 * (y**2 - 1 / 3), w / 2 + 3 * x * y], 1)

def promise():
    line, curve, coin = 1 / 3 + 1 / 12, 16 / 45 + 1, 1 / 2
    return line / (line + curve + coin), (line + curve) / (line + curve + coin)
"""
MISTAKES["ex15"] = [
    ("manual_seed(seed)", "manual_seed(0)", "another seed has to give other pairs"),
    ("g = torch.Generator().manual_seed(seed)", "g = None", "random without seed?"),
    ("return c, best", "return c[:, 0], best", "c has shape (50,), it should be (50, 2 to 8)"),
    ("generator=g) - 1\n    coin", "generator=g)[torch.arange(n) % 40] - 1\n    coin", "pairs repeat"),
    ("3, generator=g) - 1", "3, generator=g) - 1 + seed / 50", "two seeds give two distributions"),
    ("2 * torch.rand(n, 3, generator=g) - 1", "torch.randn(n, 3, generator=g)", "6 is the most: few rows would decide"),
    ("return c, best_answer(c) +", "return c, 1 + best_answer(c) +", "has a mean that is not 0"),
    ("return c, best_answer(c) +", "return c, c[:, :2] + best_answer(c) +", "still rises or falls with c"),
    ("return c, best_answer(c) +", "return c, c[:, :2] ** 2 - 1 / 3 + best_answer(c) +", "still bends with c"),
    ("return torch.stack([x +", "return torch.stack([x + torch.randn(len(c)) / 9 +", "says two things of one c"),
    ("x, y, w = c.T", "x, y, w = (c - c.mean(0)).T", "depends on the other rows"),
    ("0.5 * coin", "3 * coin", "no better than the constant"),
    ("0.5 * coin", "0.05 * coin", "z is nearly a function of c"),
    ("x + 2 * (y**2 - 1 / 3), w / 2 + 3 * x * y", "x, w", "is E[z given c] a line?"),
    ("3 * x * y", "2 * torch.sin(99 * x) * torch.sin(99 * y)", "Who is to find it?"),
    ("line / (line + curve + coin), (line + curve) / (line + curve + coin)", "(line + curve) / (line + curve + coin), line / (line + curve + coin)", "have changed places"),
    ("16 / 45 + 1,", "16 / 45,", "promise: ridge has an R2 of 0.1"),
]  # fmt: skip

# -- the exam of the exam


def header(stub, word):
    """The rest of the line that starts with `word` in a stub's docstring."""
    return re.search(rf"^{word} +(.*)$", stub.read_text(), re.M)[1]


def graded(stub, source, here, impl):
    """(exit code, output, seconds) of the exercise's own command, with `source` as `impl`."""
    mine = here / (impl.removesuffix(".py") + ".py")
    mine.write_text(source)
    command = header(stub, "Grade").replace(f"assignments.{stub.stem}", impl)
    words = [sys.executable, "-m", *shlex.split(command)]
    words[3] = str(ROOT / words[3])  # as from the student's own folder
    start = time.time()
    env = {**os.environ, "PYTHONPATH": f"{here}:{ROOT}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=here, env=env, capture_output=True, text=True)
    assert mine.read_text() == source and {*os.listdir(here)} <= {mine.name, "__pycache__"}
    return done.returncode, done.stdout + done.stderr, time.time() - start


def jobs():
    """{name of a job: what `graded` needs}: stub, answer, mistakes of each exercise."""
    for stub in STUBS:
        name = stub.stem[:4]
        yield f"{name} stub", (stub, stub.read_text(), "homework")
        yield f"{name} answer", (stub, ANSWERS[name], "elsewhere")
        for n, (old, new, _) in enumerate(MISTAKES[name]):
            assert ANSWERS[name].count(old) == 1, (name, old)
            yield f"{name} mistake {n}", (stub, ANSWERS[name].replace(old, new), "wrong.py")


@pytest.fixture(scope="module")
def grades(request, tmp_path_factory):
    """{job: a future of its grade}, of the exercises that this session asks for; two at a time."""
    mine = [item for item in request.session.items if "grades" in item.fixturenames]
    asked = {item.callspec.params["stub"] for item in mine}
    pool = ThreadPoolExecutor(2)
    yield {
        job: pool.submit(graded, stub, source, tmp_path_factory.mktemp("student"), impl)
        for job, (stub, source, impl) in jobs()
        if stub in asked
    }
    pool.shutdown(cancel_futures=True)


def passed(out):
    return tuple(map(int, re.search(r"(\d+) of (\d+) graded tests pass", out).groups()))


EVERY = pytest.mark.parametrize("stub", STUBS, ids=lambda s: s.stem)


@pytest.mark.slow
@EVERY
def test_stub_fails_by_name(stub, grades):
    """Otherwise an empty file gets a grade, or its student is not told which file to open."""
    rc, out, _ = grades[f"{stub.stem[:4]} stub"].result()
    good, all_ = passed(out)
    assert rc == 1 and good == 0 < all_, out
    assert "in homework.py" in out and out.count("NotImplementedError") > all_, out


@pytest.mark.slow
@EVERY
def test_answer_passes_and_prints_the_number(stub, grades, tmp_path):
    """Otherwise a right answer of another kind fails, or grading takes 20 s."""
    rc, out, seconds = grades[f"{stub.stem[:4]} answer"].result()
    assert rc == 0 and len(set(passed(out))) == 1, out
    what, number = header(stub, "Expect").split(" (")[0].split(": ")
    assert re.search(rf"{re.escape(what)}: \S+, expected {re.escape(number)}$", out, re.M), out
    if seconds > 20:  # the machine was busy: a second try
        seconds = graded(stub, ANSWERS[stub.stem[:4]], tmp_path, "elsewhere")[2]
    assert seconds < 20


@pytest.mark.slow
@EVERY
def test_every_mistake_is_named(stub, grades):
    """Otherwise a student with a usual mistake learns only that it is wrong."""
    for n, (_, new, words) in enumerate(MISTAKES[stub.stem[:4]]):
        rc, out, _ = grades[f"{stub.stem[:4]} mistake {n}"].result()
        assert rc == 1 and words in out.split("graded tests pass")[1], f"{new}\n{out}"


@pytest.mark.slow
def test_nothing_written_yet():
    """Otherwise `pytest --impl` gives an empty course a grade, breaks off, or names no file."""
    command = [sys.executable, "-m", "pytest", "--impl"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    good, every = passed(done.stdout)
    assert done.returncode == 1 and good == 0 < 60 < every and not done.stderr
    assert done.stdout.count("\nNotImplementedError: write") == every
    last = done.stdout.split("graded tests pass")[1]
    assert all(f"in assignments/{stub.name}" in last for stub in STUBS)
