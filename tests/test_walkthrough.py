"""The walkthrough, its notebook and its small run; moving pictures; figures that can be read."""

import ast
import base64
import io
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import encoders
import make_walkthrough
import movies
import pictures
from closed_form import cosine_of
from data import load
from ddim_translator import Translator, ddim_step, make_alpha
from latent_bridge import Bridge, Kernel
from make_walkthrough import cells_of, run_cell
from runs import TranslatorRun, cpu_randn

ROOT = Path(make_walkthrough.__file__).parent
TEXT = (ROOT / "walkthrough.py").read_text()


# -- the notebook


def test_the_notebook_is_not_stale():
    """Otherwise walkthrough.ipynb shows what another script did: python make_walkthrough.py."""
    saved = json.loads((ROOT / "walkthrough.ipynb").read_text())
    cells = [(cell["cell_type"], cell["source"]) for cell in saved["cells"]]
    assert cells == cells_of(TEXT), "python make_walkthrough.py makes it anew"
    for cell in saved["cells"]:
        kinds = {output["output_type"] for output in cell.get("outputs", [])}
        assert kinds <= {"stream", "display_data"}
        drawn = "\nshow(fig" in cell["source"] or "\ntable_of_pictures(" in cell["source"]
        assert ("display_data" in kinds) == drawn
    assert (ROOT / "walkthrough.ipynb").stat().st_size < 1_000_000


def test_every_figure_is_read_aloud():
    """Otherwise a reader sees a picture, and not what it says."""
    cells = cells_of(TEXT)
    for (_, source), (kind, following) in zip(cells[:-1], cells[1:], strict=True):
        if "\nshow(fig" in source:
            assert kind == "markdown" and following.startswith("Read"), source[-60:]


def test_cells():
    """Otherwise text becomes code, or a cell is lost."""
    script = "# %% [markdown]\n# # Title\n#\n#     a = 1\n\n# %%\nx = 2\n\n\n# no cell\ny = x\n"
    expected = [("markdown", "# Title\n\n    a = 1"), ("code", "x = 2\n\n\n# no cell\ny = x")]
    assert cells_of(script) == expected
    names = {"get_ipython": None}
    outputs = run_cell("image = make()\nprint(7)\ndisplay(image)", names | {"make": grey})
    assert [o["output_type"] for o in outputs] == ["display_data", "stream"]
    assert outputs[1]["text"] == "7\n"
    file = io.BytesIO(base64.b64decode(outputs[0]["data"]["image/png"]))
    assert np.array_equal(np.asarray(Image.open(file).convert("RGB")), np.asarray(grey()))


def grey():
    return Image.new("RGB", (5, 3), (40, 40, 40))


# -- its formulas


def functions(**names):
    """The functions of walkthrough.py, without what it draws."""
    found = {"torch": torch, "np": np, "T": 1000, "alpha": make_alpha(), "ddim_step": ddim_step}
    found |= {"kernel": Kernel("vp"), "BLUE": "blue"} | names
    body = [n for n in ast.parse(TEXT).body if isinstance(n, ast.FunctionDef)]
    exec(compile(ast.Module(body, []), "walkthrough.py", "exec"), found)
    return SimpleNamespace(**found)


def test_the_guess_is_the_posterior_mean():
    """Otherwise the field of the walkthrough is another one than a perfect network's."""
    f = functions()
    points, z_t = torch.tensor([[1.0, 0.0], [-0.5, 2.0], [0.3, 0.4]]), torch.tensor([[0.2, -0.1]])
    prior = torch.tensor([0.0, 1.0, -2.0])
    a = make_alpha()[60].item()
    weights = [
        np.exp(p - ((z_t - a**0.5 * x) ** 2).sum().item() / (2 * (1 - a)))
        for x, p in zip(points, prior.tolist(), strict=True)
    ]
    expected = sum(w * x for w, x in zip(weights, points, strict=True)) / sum(weights)
    torch.testing.assert_close(f.denoiser(points, prior)(z_t, 60)[0], expected.float())


def test_the_walk_is_ddim():
    """Otherwise its samples are not those of the translator."""
    f = functions()
    net = Translator(1, 2)
    points, start = torch.randn(40, 2), torch.randn(3, 2)
    denoise = f.denoiser(points)
    net.denoise = lambda z_t, t, c, omega: denoise(z_t, t)
    path, guesses = f.walk(denoise, start, 7)
    torch.testing.assert_close(path[-1], net.ddim_sample(torch.zeros(3, 1), start, 7))
    assert len(path) == 8 and len(guesses) == 7 and torch.equal(path[0], start)
    # Shorter and shorter steps reach the points themselves.
    path, _ = f.walk(denoise, start, 60, power=3)
    assert torch.cdist(path[-1], points).min(1).values.max() < 0.1


def test_the_bridge_knows_its_pairs():
    """Otherwise the exact denoiser forgets y, or the state."""
    y, x = (
        torch.tensor([[0.0, 0.0], [0.0, 0.0], [3.0, 3.0]]),
        torch.tensor([[1.0, 0], [-1, 2], [7, 7]]),
    )
    seen = []
    denoise = functions(x=x, y=y).bridge_denoiser(y[:1], seen)
    torch.testing.assert_close(denoise(y[:1], 1.0), torch.tensor([[0.0, 1.0]]))
    a, b, _ = Kernel("vp")(0.02)
    z_t = (a * y[:1] + b * x[1:2]).float()
    torch.testing.assert_close(denoise(z_t, 0.02), x[1:2], atol=1e-3, rtol=0)
    assert [t for t, _ in seen] == [1.0, 0.02]


# -- the small run


def test_the_small_run():
    """Otherwise the file that is handed out is large, from somebody's disk, or translates badly."""
    assert (ROOT / "small-run" / "model.pt").stat().st_size < 3_000_000
    run = TranslatorRun(str(ROOT / "small-run"))
    assert not any(str(value).startswith("/") for value in vars(run.args).values())
    test = load("glyphs", None, "test")
    pairs = test.pairs[~test.bare][::23]
    z = torch.from_numpy(run.E_image([test.images[i] for i in pairs[:, 0]]))
    c = torch.from_numpy(run.E_text([test.captions[j] for j in pairs[:, 1]]))
    cM, _ = run.terms("text->image", c, K=1)
    assert cosine_of(run.translate("text->image", c), z) > cosine_of(cM, z) + 0.05
    assert cosine_of(run.translate("image->text", z), c) > 0.55


def test_small_encoders(monkeypatch):
    """Otherwise words of one character stay, or a column of another word goes."""
    counts, N = np.array([13, 14, 1, 900, 12]), 999
    fitted = {
        "pca:96": {"mode": "L", "mean": np.zeros(1024), "W": np.eye(96, 1024)},
        "tfidf:160": {
            "vocabulary": ["b", "c", "d", "e", "f"],
            "idf": np.log((1 + N) / (1 + counts)) + 1,
            "W": np.arange(15.0).reshape(3, 5),
        },
    }
    make = lambda spec, modality, items: SimpleNamespace(arrays=fitted[spec])
    monkeypatch.setattr(encoders, "make", make)
    split = SimpleNamespace(images=[], captions=["a"] * N)
    E_image, E_text = make_walkthrough.small_encoders(split)
    assert E_text.arrays["vocabulary"] == ["c", "e"]
    assert np.array_equal(E_text.arrays["W"], [[1, 3], [6, 8], [11, 13]])
    assert E_text.arrays["W"].dtype == E_image.arrays["W"].dtype == np.float16


# -- moving pictures


def test_a_volume_turns():
    """Otherwise it is torn, mirrored, or seen from a side that was not asked for."""
    solid = np.random.default_rng(0).random((3, 6, 6)) < 0.5
    for quarter in range(5):
        expected = np.rot90(solid, quarter, axes=(1, 2))
        assert np.array_equal(movies.turned(solid, 90 * quarter), expected)
    # A round pillar stays what it is: without holes, and nothing comes from outside.
    i, j = np.mgrid[:21, :21] - 10
    pillar = np.broadcast_to(i**2 + j**2 < 36, (2, 21, 21))
    assert (movies.turned(pillar, 37) ^ pillar).mean() < 0.05
    assert not movies.turned(np.ones((1, 8, 8), bool), 45)[0, 0, 0]


def test_rooms_stand_upright():
    """Otherwise rooms lie on their side while they turn."""
    room = torch.zeros(5, 6, 4)
    room[1, 2, 3] = 1  # on top
    assert movies.upright(room, "glyph-rooms")[0, 1, 2] == 1
    assert movies.upright(room, "glyph-solids") is room


def test_a_movie_fits_a_page(tmp_path, capsys, monkeypatch):
    """Otherwise it has lost frames, does not stay at its end, or takes minutes to load."""
    path = tmp_path / "m.gif"
    assert movies.MOST_BYTES == 1_000_000
    monkeypatch.setattr(movies, "MOST_BYTES", 20_000)
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 256, (50, 70, 3), np.uint8)) for _ in range(12)]
    movies.save_movie(noise, str(path), seconds=0.2)
    assert path.stat().st_size <= movies.MOST_BYTES and "12 frames" in capsys.readouterr().out
    with Image.open(path) as movie:
        assert movie.n_frames == 12 and movie.info["duration"] == 200 and movie.info["loop"] == 0
        movie.seek(11)
        assert movie.info["duration"] == 1500
    with pytest.raises(ValueError, match="at least one"):
        movies.save_movie([], str(path))
    assert os.listdir(tmp_path) == ["m.gif"]


def test_animate_changes_the_images():
    """Otherwise all frames are the first one, or images change places."""
    fig, axes = pictures.picture_grid(1, [1, 1])
    black, white = np.zeros((4, 4)), np.ones((4, 4))
    drawn = [pictures.show_image(ax, black) for ax in axes[0]]
    frames = movies.animate(fig, drawn, [[black, black], [black, white]], ["a", "b"])
    left, right = np.split(np.asarray(frames[1].convert("L")) < 9, 2, axis=1)
    assert left.mean() > 0.5 and right.mean() < 0.1
    assert (np.asarray(frames[0].convert("L")) < 9).mean() > 0.5


def test_states_of_the_translator():
    """Otherwise the movie shows another way than DDIM's."""
    net = Translator(3, 4, width=8, layers=2)
    net.z_mean += 2.0
    net.z_scale *= 5.0
    z_0, start = torch.randn(2, 4), torch.randn(2, 4)
    net.denoise = lambda z_t, t, c, omega: z_0
    states = movies.translator_states(net, torch.randn(2, 3), start, steps=6)
    # With the right guess, the noise in it stays the same, and only its share falls.
    scaled = [state * 5.0 - 10.0 for state in states]
    torch.testing.assert_close(scaled[0], start)
    torch.testing.assert_close(scaled[-1], z_0)
    share = ((scaled[3] - scaled[-1]).norm() / (scaled[0] - scaled[-1]).norm()).item()
    assert 0.5 < share < 0.9  # in the middle of the movie the noise is well on its way out


def test_states_of_the_bridge():
    """Otherwise the movie's end is no sample, or its beginning not the source."""
    bridge = Bridge((1, 8, 8), (1, 16, 16), N=4, D=8, width=16, heads=2, layers=1, conv=16).eval()
    y = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 1, 8, 8), np.uint8))
    states = movies.states_of(bridge, y, steps=5, randn=cpu_randn(4))
    expected, _ = bridge.sample(y, steps=5, randn=cpu_randn(4))
    torch.testing.assert_close(states[-1], expected)
    with torch.no_grad():
        first = bridge.D_x(bridge.normed(bridge.E_y(bridge.scale_y(y))))
    torch.testing.assert_close(states[0], first)
    assert len(states) == 6


def test_the_movie_of_a_volume(monkeypatch):
    """Otherwise it does not turn, or a sample stands in the place of another one."""
    frames = {}

    def save(found, path, seconds=0.1):
        frames[path] = found

    x = torch.full((2, 16, 16, 16), -1.0)
    bridge = SimpleNamespace(x_shape=(16, 16, 16), scale_y=lambda y: y)
    test_set = SimpleNamespace(bridge=bridge, truth=x, y=torch.zeros(2, 1, 6, 6))
    monkeypatch.setattr(movies, "BridgeTestSet", lambda run, n: test_set)
    monkeypatch.setattr(movies, "states_of", lambda *a, **k: [x] * (movies.STEPS + 1))
    monkeypatch.setattr(movies, "save_movie", save)
    seen = []
    monkeypatch.setattr(
        movies, "animate", lambda fig, drawn, images, titles: (seen.append(images), titles)[1]
    )
    args = SimpleNamespace(dataset="glyph-solids")
    run = SimpleNamespace(folder="R", device="cpu", args=args)
    movies.bridge_movie(SimpleNamespace(is_latent=False, run=run), samples=2)
    titles = frames[os.path.join("R", "movie.gif")]
    assert len(titles) == len(seen[0]) == movies.STEPS + 1 + movies.TURNS
    assert titles[0] == "t = 1.00 T" and titles[movies.STEPS] == "t = 0.00 T"
    assert {len(images) for images in seen[0]} == {2 * 3}


def test_movies_are_skipped_with_a_line(capsys):
    """Otherwise a run without pictures ends in a traceback."""
    movies.caption_movie(SimpleNamespace(decode=None))
    movies.bridge_movie(SimpleNamespace(is_latent=True))
    assert capsys.readouterr().out.count("skipped") == 2


# -- figures


def test_figures_can_be_read_on_half_a_page():
    """Otherwise letters are too small on paper: 6.5 inches between the margins, 8 points."""
    for columns in (3, 9, 16):
        fig, axes = pictures.picture_grid(2, [1] * columns, captions=True)
        pictures.write_caption(axes[0, 0], "sans bold latin capital letter o with caron")
        pictures.show_image(axes[0, 1], np.zeros((3, 3)), "true, decoded")
        size = fig.get_figwidth()
        assert size <= pictures.PAGE + 1e-9
        texts = [ax.title for ax in axes.flat] + axes[0, 0].texts
        assert min(text.get_fontsize() for text in texts) * 6.5 / max(size, 6.5) >= 8
        assert axes[0, 1].get_title() == "true,\ndecoded"


def luminance(colour):
    """Relative luminance (WCAG) of "#rrggbb"."""
    rgb = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (v / 12.92 if v <= 0.04 else ((v + 0.055) / 1.055) ** 2.4 for v in rgb)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def test_lines_can_be_seen_on_white():
    """Otherwise a line is too light for paper."""
    for colour in pictures.COLOURS:
        assert 1.05 / (luminance(colour) + 0.05) > 2
