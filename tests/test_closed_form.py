"""
closed_form.py and what leans on it: ridge as M, the choice of lambda and gamma, the faded input.

Oracles are scikit-learn's Ridge, numpy's least squares, and derivatives. All sizes differ, so that
a swapped axis cannot pass. Run: pytest tests/test_closed_form.py
"""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

import baselines
import data
import runs
import train
from closed_form import LAMBDAS, best_gamma, best_ridge, cosine_of, gamma_star, moments, ridge
from ddim_translator import Translator, draw_noise, make_alpha, noised
from latents import DIRECTIONS

CPU = torch.device("cpu")
N, H1, H2 = 90, 6, 4


def problem(n=N, h1=H1, h2=H2, noise=0.5, seed=0):
    """c (n, h1) of unequal variances, not of mean 0, and z (n, h2): linear in c, and noise."""
    draw = torch.Generator().manual_seed(seed)
    c = torch.randn(n, h1, generator=draw) * torch.linspace(0.2, 3, h1) + 2
    W = torch.randn(h1, h2, generator=draw)
    z = c @ W - 1 + noise * torch.randn(n, h2, generator=draw)
    return c, z


def in_three(c, z):
    """The pairs in chunks of unequal sizes."""
    return zip(c.split([7, 50, len(c) - 57]), z.split([7, 50, len(z) - 57]), strict=True)


# -- the sums


def test_moments():
    """Otherwise means or covariances depend on the chunks, are of N - 1, or of float32."""
    c, z = problem()
    found = moments(in_three(c, z))
    c, z = c.double().numpy(), z.double().numpy()
    cov = np.cov(np.hstack([c, z]).T, bias=True)
    assert found.N == N and {x.dtype for x in found[1:]} == {torch.float64}
    np.testing.assert_allclose(found.c_mean, c.mean(0), rtol=1e-10)
    np.testing.assert_allclose(found.z_mean, z.mean(0), rtol=1e-10)
    np.testing.assert_allclose(found.CC, cov[:H1, :H1], atol=1e-10)
    np.testing.assert_allclose(found.CZ, cov[:H1, H1:], atol=1e-10)
    np.testing.assert_allclose(found.z_var, z.var(0), rtol=1e-10)
    np.testing.assert_allclose(found.c_var, c.var(0), rtol=1e-10)


def test_moments_far_from_zero():
    """Otherwise a variance is lost beside a mean that is a thousand times larger."""
    c, z = problem(2000)
    near, far = moments([(c, z)]), moments([(c + 4096, z - 4096)])
    torch.testing.assert_close(far.CC, near.CC, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(far.z_var, near.z_var, rtol=1e-3, atol=1e-3)


# -- ridge


@pytest.mark.parametrize("lam", [1e-6, 1e-2, 1.0])
def test_ridge_is_sklearns(lam):
    """Otherwise W or b is another, or lambda has other units than N times c's mean variance."""
    c, z = problem()
    W, b = ridge(moments(in_three(c, z)), lam)
    s = c.double().numpy().var(0).mean()
    known = Ridge(alpha=N * lam * s).fit(c.double().numpy(), z.double().numpy())
    np.testing.assert_allclose(W, known.coef_.T, atol=1e-8)
    np.testing.assert_allclose(b, known.intercept_, atol=1e-7)


def test_ridge_without_lambda_is_least_squares():
    """Otherwise there is no bias, or it is shrunk."""
    c, z = problem()
    W, b = ridge(moments([(c, z)]), 0.0)
    one = np.c_[c.double(), np.ones(N)]
    known = np.linalg.lstsq(one, z.double().numpy(), rcond=None)[0]
    np.testing.assert_allclose(np.vstack([W, b]), known, atol=1e-8)


def test_ridge_has_no_units():
    """Otherwise lambda means something else for latents of length 1 than for those of length 22."""
    c, z = problem()
    c_val, z_val = problem(40, seed=1)
    answers, chosen = [], []
    for factor in (1.0, 1e-3):
        found = moments([(c * factor, z)])
        W, b = ridge(found, 0.1)
        answers.append(c_val.double() * factor @ W + b)
        chosen.append(best_ridge(found, c_val * factor, z_val))
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-5, atol=1e-5)
    assert chosen[0] == chosen[1]


def test_lambda_is_chosen_by_validation_pairs():
    """Otherwise few and noisy pairs get the smallest lambda, which looks best on themselves."""
    few, noise, h1 = 60, 12.0, 50
    c, z = problem(few + 4000, h1, noise=noise)
    pairs, validation = (c[:few], z[:few]), (c[few:], z[few:])
    found = moments([pairs])
    assert best_ridge(found, *validation) >= 0.1 and best_ridge(found, *pairs) <= 1e-3
    # Many pairs with little noise speak for themselves.
    c, z = problem(4000, h1, noise=0.1)
    assert best_ridge(moments([(c, z)]), c, z) <= 1e-4
    # It is the best of all: every other one scores less.
    scores = {}
    for lam in LAMBDAS:
        W, b = ridge(found, lam)
        scores[lam] = cosine_of(validation[0].double() @ W + b, validation[1].double())
    assert max(scores, key=scores.get) == best_ridge(found, *validation)


# -- M in the translator


@pytest.mark.parametrize("objective", ["ridge", "residual"])
@pytest.mark.parametrize("unit", [False, True])
def test_M_is_ridge(objective, unit):
    """Otherwise gamma = 0 is not ridge regression, and F could not be compared with it."""
    c, z = problem()
    net = Translator(H1, H2, width=8, layers=2, objective=objective, unit=unit)
    found = moments([(net.prepared(c), net.prepared(z))])
    net.fit(found, 0.03)
    W, b = ridge(found, 0.03)
    want = (net.prepared(c).double() @ W + b).float()
    torch.testing.assert_close(net(c, gamma=0.0, K=1, steps=1), want, rtol=1e-4, atol=1e-4)
    assert not any(p.requires_grad for p in net.M.parameters())
    # The table's row is the same map.
    row = baselines.ridge([(c, z)], c, z, net.prepared)
    W, b = ridge(found, best_ridge(found, net.prepared(c), z))
    torch.testing.assert_close(row(c), (net.prepared(c).double() @ W + b).float())


def test_unit_latents():
    """Otherwise --unit leaves a length in c or z, and long vectors count more than short ones."""
    c, z = problem()
    net = Translator(H1, H2, width=8, layers=2, unit=True)
    assert torch.allclose(net.prepared(z).norm(dim=1), torch.ones(N))
    net.fit(moments([(net.prepared(c), net.prepared(z))]))
    longer = torch.linspace(0.5, 9, N)[:, None]
    torch.testing.assert_close(net.scale_z(z * longer), net.scale_z(z))
    torch.testing.assert_close(net.scale_c(c * longer), net.scale_c(c))
    assert (net.scale_z(z) / net.z_scale).norm(dim=1).sub(1).abs().max() < 1e-5
    plain = Translator(H1, H2, width=8, layers=2)
    assert torch.equal(plain.prepared(z), z)


# -- gamma, for an F of any length


@pytest.mark.parametrize("length", [0.06, 1.0, 30.0])
def test_gamma_star_of_an_F_of_any_length(length):
    """Otherwise F of length 1 is taken for granted: half as long an F wants twice the gamma."""
    draw = torch.Generator().manual_seed(2)
    z = torch.randn(1, H2, generator=draw).double()
    cM = 3 * torch.randn(1, H2, generator=draw).double() + z
    F = torch.randn(1, H2, generator=draw).double() + z
    F = F * (length / F.norm())
    gamma = torch.tensor(gamma_star(cM, F, z), dtype=torch.float64, requires_grad=True)
    assert gamma > 0
    cosine = torch.cosine_similarity(z, cM + gamma * F).mean()
    cosine.backward()
    assert gamma.grad.abs() * gamma.detach() < 1e-9  # the top of the curve
    assert cosine > cosine_of(cM, z) and best_gamma(cM, F, z) == pytest.approx(
        gamma.item(), rel=0.1
    )


def test_gamma_of_a_useless_F_is_zero():
    """Otherwise F counts where it hurts: 0 is among the choices."""
    c, z = problem()
    assert best_gamma(z + 0.1, -z, z) == 0.0
    assert best_gamma(z.clone(), torch.randn(N, H2), z) == 0.0
    # gamma_star may see a use where there is none: by its means, a long c M asks for much of F,
    # which is the end of a short one.
    cM = torch.tensor([[0.01, 0.0, 0.0], [10.0, 0.0, 0.0]])
    F = torch.tensor([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    z = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.05, 0.0]])
    assert gamma_star(cM, F, z) > 0.1 and best_gamma(cM, F, z) == 0.0


# -- the faded input


class Copies(torch.nn.Module):
    """A network that answers with what it is shown."""

    def forward(self, z_t, t, c, keep=None):
        return z_t


def test_the_faded_input():
    """Otherwise the network sees the noise at t = T in full, or a faded z_t where it is clean."""
    t = torch.tensor([1, 500, 1000])
    z_t, c = torch.randn(3, H2), torch.zeros(3, H1)
    net, plain = (Translator(H1, H2, width=8, layers=2, faded=faded) for faded in (True, False))
    net.net = plain.net = Copies()
    factor = net.output(z_t, t, c) / z_t
    want = make_alpha()[t].sqrt()[:, None].expand(3, H2).float()
    torch.testing.assert_close(factor, want, rtol=1e-5, atol=1e-6)
    assert factor[2].mean().item() == pytest.approx(0.018, abs=1e-4) and factor[0].mean() > 0.995
    assert torch.equal(plain.output(z_t, t, c), z_t)


def test_the_faded_input_is_the_best_linear_guess_of_z0():
    """Otherwise a network that copies its input has another error than 1 - alpha_t."""
    draw = torch.Generator().manual_seed(3)
    z_0, eps = torch.randn(2, 4000, H2, generator=draw)
    net = Translator(H1, H2, width=8, layers=2)
    net.net = Copies()
    for t in (1, 100, 1000):
        alpha_t = make_alpha()[t].float()
        z_t = noised(z_0, eps, alpha_t)
        error = (net.output(z_t, torch.full((4000,), t), None) - z_0).square().mean().item()
        assert error == pytest.approx(1 - alpha_t.item(), rel=0.05)
        best = ((z_t * z_0).mean() / z_t.square().mean()).item()
        assert best == pytest.approx(alpha_t.sqrt().item(), abs=0.02)


def test_the_sampler_and_the_loss_see_the_faded_input():
    """Otherwise training and sampling show the network two different things."""
    net, seen = Translator(H1, H2, width=8, layers=2), []

    class Watched(torch.nn.Module):
        def forward(self, z_t, t, c, keep=None):
            seen.append((z_t, t))
            return torch.zeros_like(z_t)

    net.net = Watched()
    start = torch.randn(5, H2)
    net.ddim_sample(torch.zeros(5, H1), start, 1)
    c, z = torch.zeros(6, H1), torch.zeros(6, H2)
    noise = draw_noise(6, H2, 1000)
    net.loss(c, z, noise)
    torch.testing.assert_close(seen[0][0], start * math.sqrt(3.2484e-4), rtol=1e-3, atol=1e-5)
    a = make_alpha()[noise.t][:, None].float()
    torch.testing.assert_close(seen[1][0], a.sqrt() * (1 - a).sqrt() * noise.eps)


# -- a run on a problem where ridge is the truth


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A run on 300 pairs with z = c A + much noise, as train.py makes one."""
    top = tmp_path_factory.mktemp("planted")
    draw = np.random.default_rng(0)
    c = draw.normal(size=(1700, 9)).astype(np.float32)
    z = c @ draw.normal(size=(9, 14)) + 2 * draw.normal(size=(1700, 14))
    np.save(top / "text.npy", c)
    np.save(top / "image.npy", z.astype(np.float32))
    files = f"--dataset latents --text-latents {top}/text.npy --image-latents {top}/image.npy"
    run = f"--out {top}/run --cache-dir {top}/cache --device cpu --pairs 200"
    size = "--steps 60 --width 24 --layers 3 --batch 32 --K 4"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "draw_losses", lambda *args: None)
        train.train(train.parse(f"{files} {run} {size}".split()))
    return runs.TranslatorRun(f"{top}/run", CPU)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_never_below_ridge(planted, direction):
    """Otherwise few pairs make the translator worse than the linear map that it begins with."""
    found = {split: planted.latents(split)[1] for split in ("train", "val", "test")}
    pairs = {split: x.of(direction, x.full) for split, x in found.items()}
    assert len(pairs["train"][0]) == 200
    row = baselines.ridge(found["train"].chunks(direction), *pairs["val"])
    for split, allowed in (("val", 1e-6), ("test", 0.005)):
        c, z = pairs[split]
        ours = cosine_of(planted.translate(direction, c, seed=0), z)
        assert ours >= cosine_of(row(c), z) - allowed
        # And gamma = 0 IS ridge.
        zero = planted.translate(direction, c, gamma=0.0) / planted.length[direction]
        torch.testing.assert_close(zero, row(c), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_length_has_the_least_squared_error(planted, direction):
    """Otherwise z_hat is too long or too short, and a centred cosine or a picture shows it."""
    val = planted.latents("val")[1]
    c, z = val.of(direction, val.full)
    z_hat = planted.translate(direction, c, seed=0).double()
    factor = torch.ones((), dtype=torch.float64, requires_grad=True)
    error = (factor * z_hat - z).square().mean()
    (slope,) = torch.autograd.grad(error, factor)
    assert abs(slope) < 1e-5 * error
    assert planted.length[direction] > 0


# -- defaults of a set of one's own


def asked(pairs, line="", device="cpu"):
    args = train.parse(f"--dataset latents {line}".split())
    told = train.fit_to_data(args, train.FLAGS, pairs, SimpleNamespace(type=device))
    assert f"{pairs:,} training pairs, {device}" in told and f"width {args.width}" in told
    assert f"{args.steps:,} steps of {args.batch}" in told
    return args.steps, args.width, args.lr, args.omega


def test_defaults_fit_the_data():
    """Otherwise 300 pairs on a laptop are trained for 100,000 steps at width 2048."""
    small = (256, 4e-3, 0.0)
    assert asked(300) == asked(300, device="cuda") == (300, *small)
    assert asked(8000) == asked(8000, device="cuda") == (38 * 8000 // 256, *small)
    assert asked(200_000) == (20_000, *small)  # no GPU: not slower than that
    assert asked(200_000, device="cuda") == (100_000, 2048, 1e-4, 5.0)


def test_what_was_typed_wins():
    """Otherwise a flag is overruled by the size of the data."""
    assert asked(300, "--steps 7 --lr 0.5") == (7, 256, 0.5, 0.0)
    assert asked(200_000, "--width 24 --omega 1", "cuda") == (100_000, 24, 1e-4, 1.0)
    assert asked(8000, "--batch 64")[0] == 38 * 8000 // 64
    assert asked(8000, "--quick") == (250, 256, 4e-3, 0.0)
    assert asked(200_000, "--quick --steps 9")[0] == 9


def test_a_set_of_known_size_is_decided_before():
    """Otherwise the glyphs' tuned numbers depend on how many glyphs are counted."""
    args = train.parse([])
    before = dict(vars(args))
    assert train.fit_to_data(args, train.FLAGS, 300, CPU) is None and vars(args) == before
    assert train.parse(["--pairs", "300"]).steps is None


def test_pairs_cuts_the_training_set(planted):
    """Otherwise --pairs draws other rows for the baselines, or from validation pairs."""
    split, known = planted.latents("train")
    everything = data.load("latents", None, "train", **runs.data_options(planted.args))
    assert len(known.full) == len(set(known.full)) == 200 < len(everything.images)
    again = runs.cut(known._replace(full=np.arange(len(everything.images))), planted.args)
    assert np.array_equal(again.full, known.full)
    assert len(planted.latents("test")[1].full) > 50
