"""
as_released.py: each switch does what the authors' code did, and nothing else.

By hand, on small problems; no trained network. Run: pytest tests/test_as_released.py
"""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import train
from as_released import SWITCHES, Released, switches_of
from closed_form import moments
from ddim_translator import Translator, draw_noise, make_alpha, noised
from errors import RunError

N, H1, H2, B = 200, 3, 7, 16


def pairs():
    """c (N, H1) and z (N, H2) whose coordinates have unequal means and variances."""
    draw = torch.Generator().manual_seed(0)
    c = torch.randn(N, H1, generator=draw) * torch.tensor([3.0, 1.0, 0.2]) + 2
    z = c @ torch.randn(H1, H2, generator=draw) + torch.randn(N, H2, generator=draw) - 1
    return c, z * torch.linspace(0.3, 4, H2)


def made(switches, objective="joint", **how):
    """A Released, fitted, and the Translator with the same weights, where its shapes allow that."""
    c, z = pairs()
    how = {"width": 16, "layers": 3, "objective": objective, **how}
    torch.manual_seed(1)
    net, plain = Released(H1, H2, switches, **how), Translator(H1, H2, **how)
    plain.net.load_state_dict(net.net.state_dict())
    if net.M.bias is not None:
        plain.M.load_state_dict(net.M.state_dict())
    found = moments([(net.prepared(c), net.prepared(z))])
    net.fit(found)
    plain.fit(found)
    return net.eval(), plain.eval(), c[:B], z[:B]


def fixed_randn(seed=5):
    draw = torch.Generator().manual_seed(seed)
    return lambda shape, device=None: torch.randn(shape, generator=draw)


def losses(net, c, z, noise, **how):
    return [x.item() for x in net.loss(c, z, noise, **how)]


# -- names


def test_switches_have_names():
    """Otherwise a slip in a name switches nothing, and somebody believes in a comparison."""
    assert switches_of("all") == SWITCHES and len(set(SWITCHES)) == 7
    assert switches_of("") == () and switches_of("norm,l1") == ("norm", "l1")
    with pytest.raises(ValueError, match="no switch 'nrom': there are norm, l1"):
        switches_of("l1,nrom")


def test_without_a_switch_it_is_the_translator():
    """Otherwise a switch does something while it is off."""
    net, plain, c, z = made("")
    noise = draw_noise(B, H2, 1000, p=0.3)
    assert losses(net, c, z, noise) == losses(plain, c, z, noise)
    answers = [x(c, K=2, steps=3, omega=2.0, randn=fixed_randn()) for x in (net, plain)]
    assert torch.equal(*answers)


# -- one by one


def test_norm():
    """Otherwise F is divided by each row's length: a row of F has a length of 1 / sqrt(B) only."""
    net, plain, c, _ = made("norm", normalize="row")
    how = {"K": 1, "steps": 2}
    F, rows = (x.terms(c, **how, randn=fixed_randn())[1] for x in (net, plain))
    assert F.norm().item() == pytest.approx(1)  # the whole matrix
    assert rows.norm(dim=1).mean().item() == pytest.approx(1)
    assert F.norm(dim=1).square().mean().sqrt().item() == pytest.approx(B**-0.5)
    # Only lengths differ; and a prompt alone has a length of 1.
    torch.testing.assert_close(torch.nn.functional.normalize(F), rows, rtol=1e-4, atol=1e-5)
    assert net.terms(c[:1], **how)[1].norm().item() == pytest.approx(1)


def test_l1():
    """Otherwise L_ddim is squared, or summed; L_recon is none of its business."""
    net, plain, c, z = made("l1", predict="eps", faded=False)
    noise = draw_noise(B, H2, 1000, p=0.0)
    total, L_recon, L_ddim = losses(net, c, z, noise, lam1=0.5, lam2=3.0)
    z_0 = plain.scale_z(z) - plain.z_mean * plain.z_scale
    z_t = noised(z_0, noise.eps, make_alpha()[noise.t][:, None].float())
    error = noise.eps - plain.output(z_t, noise.t, plain.scale_c(c), noise.keep)
    assert L_ddim == pytest.approx(error.abs().mean().item(), rel=1e-5)
    assert L_recon == losses(plain, c, z, noise)[1]
    assert total == pytest.approx(0.5 * L_recon + 3 * L_ddim, rel=1e-5)


@pytest.mark.parametrize("more", ["", ",zscore"])
def test_bias(more):
    """Otherwise M has a bias, or takes c without its mean."""
    net, _, c, _ = made("bias" + more)
    assert net.M.bias is None
    torch.testing.assert_close(net.linear(net.scale_c(c)), c @ net.M.weight.T, rtol=1e-4, atol=1e-4)
    # An answer is the mean where c is: nothing else stands in for the bias.
    assert net.linear(net.scale_c(torch.zeros(1, H1))).abs().max() < 1e-5


def test_zscore():
    """Otherwise the diffusion's coordinates have unequal variances, or Eq. 5 has z-scores, too."""
    net, _, c, z = made("zscore", normalize="row")
    all_c, all_z = pairs()
    seen = (net.scale_z(all_z) - net.centre(net.scale_c(all_c))) * net.r_scale
    for x in (seen, net.scale_c(all_c)):
        torch.testing.assert_close(x.var(0, correction=0), torch.ones(x.shape[1]))
        assert x.mean(0).abs().max() < 1e-4
    # Eq. 5: the latents' own units, and F a direction among them.
    assert net.z_scale == 1 and torch.equal(net.scale_z(z), z)
    sample = net.sample(c, K=1, steps=2, randn=fixed_randn())
    cM, F = net.terms(c, K=1, steps=2, randn=fixed_randn())
    torch.testing.assert_close(F, torch.nn.functional.normalize(sample), rtol=1e-4, atol=1e-5)
    z_hat = net(c, gamma=2.0, K=1, steps=2, randn=fixed_randn())
    torch.testing.assert_close(z_hat, cM + 2 * F, rtol=1e-4, atol=1e-5)
    # What a sampler makes comes back in raw units, coordinate by coordinate.
    net.average_samples = lambda c, **how: torch.ones(len(c), H2)
    want = all_z.mean(0) + all_z.std(0, correction=0)
    torch.testing.assert_close(net.sample(c), want.expand(B, H2), rtol=1e-3, atol=1e-3)


def test_zscore_of_a_constant_coordinate():
    """Otherwise a coordinate that never varies is divided by 0."""
    c, z = pairs()
    z[:, 2] = 4.0
    net = Released(H1, H2, "zscore", width=16, layers=3, objective="joint")
    net.fit(moments([(c, z)]))
    assert net.r_scale.isfinite().all() and net(c[:5], K=1, steps=2).isfinite().all()


def test_guide():
    """Otherwise guidance acts inside the sampler, or both samples have one noise."""
    net, plain, c, _ = made("guide")
    torch.nn.init.normal_(net.net.phi)
    plain.net.load_state_dict(net.net.state_dict())
    how = {"K": 1, "steps": 4, "randn": fixed_randn()}
    got = net.average_samples(c, omega=5.0, **how)
    draws = fixed_randn()
    noise_c, noise_0 = draws((B, H2)), draws((B, H2))
    with_c = plain.ddim_sample(c, noise_c, 4)
    phi = net.net.phi.expand(B, H1)
    without = plain.ddim_sample(phi, noise_0, 4)
    torch.testing.assert_close(got, 6 * with_c - 5 * without, rtol=1e-4, atol=1e-4)
    # omega = 0 is one sample, as always.
    one = net.average_samples(c, K=1, steps=4, omega=0.0, randn=fixed_randn())
    torch.testing.assert_close(one, with_c)


def test_drop():
    """Otherwise rows are dropped one by one, phi is learned, or L_recon is measured without c."""
    net, plain, c, z = made("drop")
    assert not net.net.phi.requires_grad and net.net.phi.eq(0).all()
    noise = draw_noise(B, H2, 1000, p=0.5)
    assert 2 < noise.keep.sum() < B - 2
    for kept in (True, False):
        mixed = noise._replace(keep=noise.keep.clone().index_fill(0, torch.tensor([0]), kept))
        total, L_recon, L_ddim = losses(net, c, z, mixed, lam1=0.5, lam2=3.0)
        whole = noise._replace(keep=torch.full((B,), kept))
        _, recon, ddim = losses(plain, c, z, whole)
        assert L_ddim == pytest.approx(ddim, rel=1e-5)
        assert L_recon == pytest.approx(recon if kept else 0.0, rel=1e-5)
        assert total == pytest.approx(0.5 * L_recon + 3 * ddim, rel=1e-5)


def test_rows(monkeypatch):
    """Otherwise rows stay at t = T, or L_recon is measured on those alone."""
    net, plain, c, z = made("rows")
    noise = draw_noise(B, H2, 1000, p=0.0)
    seen = []
    real = net.output
    monkeypatch.setattr(net, "output", lambda z_t, t, *a: seen.append(t) or real(z_t, t, *a))
    L_recon = losses(net, c, z, noise, gamma=1.3, recon_steps=3)[1]
    steps = noise.t.clone()
    steps[::8] = noise.t[1::8]  # the neighbour's
    assert torch.equal(seen[0], steps) and seen[0].max() < 1000
    c_s = plain.scale_c(c)
    F = plain.F(plain.ddim_sample(c_s, noise.eps, 3), c_s)
    want = (plain.scale_z(z) - plain.linear(c_s) - 1.3 * F).abs().mean()  # all rows
    assert L_recon == pytest.approx(want.item(), rel=1e-5)
    with pytest.raises(ValueError, match="--recon-steps 2"):
        net.loss(c, z, noise, recon_steps=1)


def test_t_is_uniform_with_rows():
    """Otherwise the rows of a batch share their neighbour's noise, or t misses a part."""
    net, _, _, _ = made("rows")
    seen = []
    net.output = lambda z_t, t, *a: seen.append(t) or torch.zeros_like(z_t)
    n = 4000
    noise = draw_noise(n, H2, 1000, generator=torch.Generator().manual_seed(0))
    net.loss(torch.zeros(n, H1), torch.zeros(n, H2), noise, recon_steps=2)
    share = torch.histc(seen[0].float(), 4, 0, 1000) / n
    assert (share - 0.25).abs().max() < 0.03


def test_all_together_train():
    """Otherwise two switches cannot be on at once: one step of each kind of batch."""
    net, _, c, z = made("all", unit=True, predict="eps", faded=False)
    net.train()
    for kept in (True, False):
        noise = draw_noise(B, H2, 1000)._replace(keep=torch.full((B,), kept))
        net.zero_grad(set_to_none=True)
        loss = net.loss(c, z, noise, 1.0, 2.0, 1.0, recon_steps=3)[0]
        loss.backward()
        assert loss.isfinite() and net.net.last.weight.grad.abs().sum() > 0
        assert (net.M.weight.grad is not None) == kept
    assert net(c, K=1, steps=3, omega=5.0).isfinite().all()


# -- the command line


@pytest.mark.parametrize(
    "line, says",
    [
        ("--released nrom", "--released: no switch 'nrom': there are norm"),
        ("--released rows", "--released rows needs --recon-steps 2 or more"),
        ("--released norm,bias", "--released bias needs --objective joint"),
        ("--released zscore --objective residual", "--released zscore needs --objective joint"),
        ("--preset as-released --recon-steps 1", "--released rows needs --recon-steps 2"),
        ("--preset as-released --objective ridge", "--released bias needs --objective joint"),
    ],
)
def test_what_does_not_go_together_is_one_line(line, says, tmp_path, monkeypatch):
    """Otherwise a run ends in a traceback, after its data were read and encoded."""
    with pytest.raises(RunError, match=re.escape(says)) as error:
        train.parse(line.split())
    assert "\n" not in str(error.value)
    # A set of one's own is checked when it has been read, and before anything is encoded.
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", pairs()[0].numpy())
    files = f"--image-latents {tmp_path}/a.npy --text-latents {tmp_path}/b.npy --out {tmp_path}/run"
    monkeypatch.setattr(train, "load_latents", lambda *args: pytest.fail("encoded"))
    with pytest.raises(RunError, match=re.escape(says)):
        train.train(train.parse(f"--dataset latents {files} --device cpu {line}".split()))
    assert not (tmp_path / "run").exists()


def test_a_whole_batch_is_in_one_process(tmp_path, monkeypatch):
    """Otherwise each process drops its own slice, and their gradients do not fit together."""
    cpu = torch.device("cpu")
    monkeypatch.setattr(train, "start_processes", lambda device: (0, 2, cpu))
    splits = {"train": SimpleNamespace(bare=np.zeros(5, bool))}
    monkeypatch.setattr(train, "load_splits", lambda args: splits)
    monkeypatch.setattr(train, "train_in", lambda *args: pytest.fail("trained"))
    for name in ("norm", "drop"):
        args = train.parse(f"--released {name} --out {tmp_path}/run".split())
        with pytest.raises(RunError, match=f"--released {name} is for one process, not for 2"):
            train.train(args)


PRINTED = dict(objective="joint", predict="eps", normalize="row", faded=False, omega=5.0, gamma=1.0)
PRINTED |= dict(K=1, ddim_steps=50, lam1=1.0, lam2=2.0, recon_steps=1, unit=False, released="")
RELEASED = PRINTED | dict(lam1=2.0, lam2=1.0, recon_steps=50, ema=0.0, unit=True, released="all")


@pytest.mark.parametrize("name, values", [("as-printed", PRINTED), ("as-released", RELEASED)])
def test_presets_are_the_papers(name, values):
    """Otherwise a preset leaves one of our settings, or overrules what was typed."""
    args, ours = train.parse(["--preset", name]), train.parse([])
    assert {k: getattr(args, k) for k in values} == values
    # Sizes and rates stay those of the set; and a set of one's own has them later.
    for other in ("steps", "width", "lr", "batch", "cosine", "layers", "p"):
        assert getattr(args, other) == getattr(ours, other)
    assert train.parse(["--dataset", "latents", "--preset", name]).K == 1
    # What is typed wins.
    line = f"--preset {name} --omega 0 --gamma auto --faded --K 3 --lam1 0.5".split()
    typed = train.parse(line)
    assert (typed.omega, typed.gamma, typed.faded) == (0.0, "auto", True)
    assert (typed.K, typed.lam1, typed.predict) == (3, 0.5, "eps")
    if name == "as-released":
        some = train.parse(["--preset", name, "--released", "norm,l1", "--no-unit"])
        assert (some.released, some.unit, some.recon_steps) == ("norm,l1", False, 50)
