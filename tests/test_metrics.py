"""metrics.py: images, captions, voxels, vectors; solved cases and independent implementations."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

import metrics

NAN = math.nan


def rng(seed=0):
    return np.random.default_rng(seed)


def voxels(n, share=0.1, size=(5, 7, 9), seed=0):
    return torch.from_numpy(rng(seed).random((n, *size)) < share)


# --------------------------------------------------------------------------------------------------
# images


def test_psnr_by_hand():
    """Decibels of the mean instead of the mean of decibels, no cap, or a range that is not used."""
    x = torch.full((3, 2, 4, 5), 0.5)
    x_hat = x.clone()
    x_hat[0] += 0.1  # MSE 0.01 is 20 dB
    x_hat[1, 0] += 0.01 * 2**0.5  # in one of two channels: MSE 1e-4 is 40 dB
    assert metrics.psnr(x_hat, x) == pytest.approx((20 + 40 + 100) / 3, abs=1e-3)
    # [-1, 1]: twice the error and twice the range
    twice = metrics.psnr(x_hat * 2 - 1, x * 2 - 1, -1, 1)
    assert twice == pytest.approx((20 + 40 + 100) / 3, abs=1e-3)


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.ssim])
def test_overshoot_is_clamped_and_earns_nothing(metric):
    """A prediction outside the range changes the score: its range was inferred, or not clamped."""
    x = torch.from_numpy(rng().random((2, 3, 12, 13)))
    x_hat = x + torch.from_numpy(rng(1).normal(0, 0.3, x.shape))
    assert metric(x_hat, x) == metric(x_hat.clamp(0, 1), x)
    assert metric(x_hat, x, -1, 1) == metric(x_hat.clamp(-1, 1), x, -1, 1)
    assert metric(x_hat, x) != metric(x_hat, x, -1, 1)


def ssim_of_plane(p, q, low, high):
    """Wang et al. 2004 on one channel: scipy's Gaussian of radius 5, borders cut off."""
    blur = lambda v: gaussian_filter(v, 1.5, truncate=5 / 1.5)[5:-5, 5:-5]
    mu, nu = blur(p), blur(q)
    var, wav, cov = blur(p * p) - mu**2, blur(q * q) - nu**2, blur(p * q) - mu * nu
    C1, C2 = 1e-4 * (high - low) ** 2, 9e-4 * (high - low) ** 2
    luminance = (2 * mu * nu + C1) / (mu**2 + nu**2 + C1)
    structure = (2 * cov + C2) / (var + wav + C2)
    return (luminance * structure).mean()


@pytest.mark.parametrize("shape", [(3, 2, 17, 23), (260, 1, 11, 12)])
@pytest.mark.parametrize("low, high", [(0, 1), (-1, 1), (0, 255)])
def test_ssim_agrees_with_scipy(shape, low, high):
    """SSIM has another window, border, constant or mean than Wang's."""
    x = rng().random(shape, dtype=np.float32) ** 2 * (high - low) + low
    x_hat = x + rng(1).normal(0, 0.2 * (high - low), shape)
    x_hat = x_hat.clip(low, high).astype(np.float32)
    planes = zip(x_hat.reshape(-1, *shape[2:]), x.reshape(-1, *shape[2:]), strict=True)
    each = [ssim_of_plane(p.astype(float), q.astype(float), low, high) for p, q in planes]
    assert metrics.ssim(x_hat, x, low, high) == pytest.approx(np.mean(each), abs=1e-6)
    assert metrics.ssim(x, x, low, high) == pytest.approx(1)


def test_ssim_by_hand():
    """Two constant pictures differ in luminance alone: (2 mu nu + C1) / (mu^2 + nu^2 + C1)."""
    x_hat, x = torch.full((1, 1, 11, 12), 0.25), torch.full((1, 1, 11, 12), 0.75)
    assert metrics.ssim(x_hat, x) == pytest.approx((0.375 + 1e-4) / (0.625 + 1e-4), rel=1e-6)


def test_frechet_of_known_moments():
    """Variances are divided by N, or the means, the roots or the squares are wrong."""
    # uncorrelated columns: |mean - mean'|^2 + sum over columns of (std - std')^2
    f = [[3, 0], [-3, 0], [0, 6], [0, -6]]  # mean (0, 0), variances 18/3 and 72/3
    g = [[0, 0], [3, 3], [0, 6]]  # mean (1, 3), variances 6/2 and 18/2
    first, second = (6**0.5 - 3**0.5) ** 2, (24**0.5 - 3) ** 2
    assert metrics.frechet(f, g) == pytest.approx(1 + 9 + first + second, rel=1e-5)
    f, g = np.array(f)[:, :1], np.array(g)[:, :1]  # one column
    assert metrics.frechet(f, g) == pytest.approx(1 + first, rel=1e-5)


def test_frechet_agrees_with_sqrtm():
    """The trace of the square root is wrong where the covariances do not commute."""
    f = rng(1).normal(size=(40, 7)) @ rng(2).normal(size=(7, 7))
    g = rng(3).normal(size=(53, 7)) @ rng(4).normal(size=(7, 7)) + 0.5
    C_f, C_g = np.cov(f.T), np.cov(g.T)
    cross = np.trace(sqrtm(C_f @ C_g)).real
    expected = ((f.mean(0) - g.mean(0)) ** 2).sum() + np.trace(C_f + C_g) - 2 * cross
    assert metrics.frechet(f, g) == pytest.approx(expected, rel=1e-5)
    assert metrics.frechet(g, f) == pytest.approx(expected, rel=1e-5)
    assert metrics.frechet(f, f) == pytest.approx(0, abs=1e-9)


def test_frechet_of_singular_covariances():
    """Fewer rows than features, or a collapsed set, gives NaN, a complex number or noise."""
    f = rng().normal(size=(5, 31))
    assert metrics.frechet(f, f) == pytest.approx(0, abs=1e-9)
    assert metrics.frechet(f, f + 2) == pytest.approx(31 * 4, rel=1e-5)
    constant = np.zeros((3, 31))
    total = (f.mean(0) ** 2).sum() + f.var(0, ddof=1).sum()
    assert metrics.frechet(f, constant) == pytest.approx(total, rel=1e-5)


def test_frechet_agrees_with_torch_fidelity():
    """The distance is not the one that FID tools report."""
    f = rng(7).normal(size=(1213, 29)) @ rng(8).normal(size=(29, 29))
    g = rng(9).normal(size=(1021, 29)) @ rng(10).normal(size=(29, 29)) + 0.5
    # torch-fidelity 0.4.0, fid_statistics_to_metric of x.mean(0) and np.cov(x.T); torchmetrics
    # 1.9.0, _compute_fid, gives 426.3018
    assert metrics.frechet(f, g) == pytest.approx(426.3017826490154, rel=1e-6)


def test_inception_score_agrees_with_torch_fidelity():
    """Splits are cut elsewhere, p(y) is of the whole set, or std divides by splits - 1."""
    logits = 2 * rng(6).normal(size=(1037, 13))  # 1037 is no multiple of 10
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    # torch-fidelity 0.4.0, isc_features_to_metric(logits, splits=10, shuffle=False)
    expected = 2.8894544880289823, 0.09832429096417061
    assert metrics.inception_score(p) == pytest.approx(expected, rel=1e-9)
    # the same with splits=1; torchmetrics 1.9.0, InceptionScore(Identity(), splits=1), 2.9295
    assert metrics.inception_score(p, 1) == pytest.approx((2.9295182327192566, 0), rel=1e-9)


def test_inception_score_by_hand():
    """0 log 0 gives NaN, the direction of KL is wrong, or the scores are not averaged by split."""
    sure = np.eye(3)
    assert metrics.inception_score(sure, 1) == pytest.approx((3, 0))  # clear, and all classes
    assert metrics.inception_score(sure[[0, 0, 0, 0]], 2) == pytest.approx((1, 0))  # one class
    assert metrics.inception_score(np.full((5, 4), 0.25), 1) == pytest.approx((1, 0))  # unclear
    # splits of one class and of two: scores 1 and 2
    assert metrics.inception_score(sure[[0, 0, 1, 2]], 2) == pytest.approx((1.5, 0.5))
    # rows (1, 0) and (1/2, 1/2), mean (3/4, 1/4): KL log 4/3, and (log 2/3 + log 2) / 2
    mean = (math.log(4 / 3) + math.log(4 / 3) / 2) / 2
    assert metrics.inception_score([[1, 0], [0.5, 0.5]], 1)[0] == pytest.approx(math.exp(mean))


# --------------------------------------------------------------------------------------------------
# captions

# pycocoevalcap 1.2, PTBTokenizer().tokenize under Java 17, with -lrb- and the like as brackets
JAVA = {
    "A man (left) isn't riding the dog's bike!": "a man ( left ) is n't riding the dog 's bike",
    "The kids' toys... can't, won't; I'm sure": "the kids toys ca n't wo n't i 'm sure",
    "they've he'd, she'll and you're [sic]": "they 've he 'd she 'll and you 're [ sic ]",
    "Two-year-old's `STOP' at St. Ann's -- U.S.": "two-year-old 's stop at st. ann 's u.s.",
    "ONE ‘single’ “quoted” café – it’s etc. in": "one single quoted café it 's etc. in",
    "5:30 p.m., 1,000 lb. & $5.50 / 50% of #1": "5:30 p.m. 1,000 lb & $ 5.50 / 50 % of # 1",
    "People cannot eat; gonna run w/ his/her": "people can not eat gon na run w / his/her",
    "A t-shirt @ McDonald's o'clock, 3.5 ft. up": "a t-shirt @ mcdonald 's o'clock 3.5 ft. up",
    "A dog,and a cat.A bird--or 3/4 - \"on\": 'x'.": "a dog and a cat.a bird or 3/4 on x",
    "Wow!! what? Happy Mom!!! Mr. Y vs. Z": "wow !! what happy mom !!! mr. y vs. z",
    ".": "",
}


@pytest.mark.parametrize("text", JAVA)
def test_caption_tokens_agree_with_java(text):
    """Words are cut elsewhere than in published numbers, or punctuation counts as words."""
    assert metrics.caption_tokens(text) == JAVA[text].split()


@pytest.mark.parametrize(
    "text, words",
    [
        ("लाल बिल्ली घर में है।", "लाल बिल्ली घर में है"),
        ("一只红色的猫，坐在 3,000 T-shirt 上。", "一 只 红 色 的 猫 坐 在 3,000 t-shirt 上"),
        ("赤いネコ・スーパー", "赤 い ネ コ ス ー パ ー"),
        ("빨간 고양이가 있다.", "빨간 고양이가 있다"),
        ("cafe\u0301's İzmir isn't", "cafe\u0301 's i\u0307zmir is n't"),
        ("قطة حمراء، هنا؟", "قطة حمراء هنا"),
        ("สีแดง!", "สี แ ด ง"),
    ],
)
def test_caption_tokens_of_other_scripts(text, words):
    """BLEU counts vowel signs as words, or a whole Chinese sentence as one."""
    assert metrics.caption_tokens(text) == words.split()


def captions(N, seed):
    """N hypotheses of 1 to 19 words, with 1 to 5 references each, which are edited copies."""
    g = rng(seed)
    draw = lambda n: [f"w{int(23 * u * u)}" for u in g.random(n)]  # some words are frequent
    hypotheses, references = [], []
    for _ in range(N):
        h = draw(g.integers(1, 20))
        refs = []
        for _ in range(g.integers(1, 6)):
            ref = [w for w in h if g.random() < 0.85]  # some are missing
            for _ in range(g.integers(1, 7)):  # some are new
                ref.insert(g.integers(len(ref) + 1), draw(1)[0])
            refs.append(ref)
        hypotheses.append(h)
        references.append(refs)
    return hypotheses, references


def test_bleu_and_rouge_agree_with_pycocoevalcap():
    """BLEU or ROUGE-L is another than the one of captioning papers."""
    H, R = captions(1009, seed=5)
    # pycocoevalcap 1.2, Bleu(4).compute_score(R, H)[0] and Rouge().compute_score(R, H)[0], words
    # joined by spaces. sacrebleu 2.6.0, BLEU(tokenize="none", smooth_method="none",
    # max_ngram_order=k).corpus_score / 100, agrees to 1e-9; its brevity penalty is 0.907
    expected = 0.8784248424135949, 0.8254800431547631, 0.7587052784325558, 0.6832523169954609
    assert metrics.bleu(H, R) == pytest.approx(expected, rel=1e-9)
    assert metrics.bleu(H, R, n=2) == pytest.approx(expected[:2], rel=1e-9)
    assert metrics.rouge_l(H, R) == pytest.approx(0.8026893850590046, rel=1e-9)
    # the first reference and the hypothesis change places: no brevity penalty
    H, R = [r[0] for r in R], [[h] + r[1:] for h, r in zip(H, R, strict=True)]
    expected = 0.8027602070154601, 0.656400505113486, 0.5289287807784353, 0.4270942085816013
    assert metrics.bleu(H, R) == pytest.approx(expected, rel=1e-9)
    assert metrics.rouge_l(H, R) == pytest.approx(0.7666714404654438, rel=1e-9)


def words(*texts):
    return [text.split() for text in texts]


def test_brevity_penalty_by_hand():
    """The penalty is per caption, or of a reference that is not the closest in length."""
    short, long = words("a b c"), words("a b c d e")
    assert metrics.bleu(short, [long], 3) == pytest.approx([math.exp(1 - 5 / 3)] * 3)
    # with a second caption of 6 words and a reference of 4: 9 words each, no penalty
    both = metrics.bleu(words("a b c", "a b c d e f"), [long, words("a b c d")], 2)
    assert both == pytest.approx([7 / 9, (7 / 9 * 5 / 7) ** 0.5])
    # 4 words: references of 3 and 5 tie, the shorter counts, so there is no penalty
    assert metrics.bleu(words("a b c d"), [long + short], 4) == pytest.approx([1] * 4)
    # references of 1 and 5: 5 is the closest, though not the shortest
    one = metrics.bleu(words("a b c d"), [words("a", "a b c d e")], 1)
    assert one == pytest.approx([math.exp(1 - 5 / 4)])


def test_clipped_counts_by_hand():
    """Repeating a word earns more than the reference that has it most often, or 0 is an error."""
    refs = words("the cat is on the mat", "there is a cat on the mat")
    score = metrics.bleu(words("the the the the the the the"), [refs], 2)  # Papineni et al. 2002
    assert score == pytest.approx([2 / 7, 0], abs=1e-6)
    assert metrics.bleu([[]], [refs]).tolist() == [0] * 4
    assert metrics.bleu(words("dog"), [refs], 1) == pytest.approx([0], abs=1e-12)


def test_rouge_l_by_hand():
    """Precision and recall are of one reference, order does not count, or gaps are not allowed."""
    # P = 3/4 from the first reference, R = 1/1 from the second
    refs = words("a b c x y z", "d")
    first = (1 + 1.44) * 0.75 / (1 + 1.44 * 0.75)
    assert metrics.rouge_l(words("a b c d"), [refs]) == pytest.approx(first)
    assert metrics.rouge_l(words("a b c d"), [refs], beta=1) == pytest.approx(2 * 0.75 / 1.75)
    assert metrics.rouge_l(words("c b a"), [words("a b c")]) == pytest.approx(1 / 3)
    gaps = 2.44 * 0.6 / (1 + 1.44 * 0.6)  # P = 3/5, R = 1
    hypotheses = [*words("a x b y c"), [], ["q"]]
    assert metrics.rouge_l(hypotheses, [words("a b c")] * 3) == pytest.approx(gaps / 3)


# --------------------------------------------------------------------------------------------------
# voxels


def test_iou_is_per_object():
    """Large objects decide (pooled over the set), or empty shapes give NaN or a wrong answer."""
    a = torch.zeros(4, 2, 3, 5, dtype=torch.bool)
    b = a.clone()
    a[0, 0], b[0, 0], b[0, 1, 0] = True, True, True  # 15 of 20
    a[1, 0, 0, :2], b[1, 0, 0, 1] = True, True  # 1 of 2
    b[2, 0, 0, 0] = True  # 0 of 1; the fourth pair is empty: 1
    assert metrics.iou(a, b) == pytest.approx((3 / 4 + 1 / 2 + 0 + 1) / 4)
    assert metrics.iou(b.numpy(), a.numpy()) == metrics.iou(a, b)
    assert metrics.iou(b, b) == 1


def test_chamfer_agrees_with_brute_force_over_points():
    """The distance is not exact, is squared, is one-sided, or stands at [m, n]."""
    a, b = voxels(3), voxels(4, share=0.03, seed=1)
    expected = np.empty((3, 4))
    for n, m in np.ndindex(3, 4):
        D = cdist(a[n].nonzero(), b[m].nonzero())
        expected[n, m] = D.min(1).mean() + D.min(0).mean()
    assert metrics.chamfer(a, b).numpy() == pytest.approx(expected)
    assert metrics.chamfer(a, a).diag().tolist() == [0] * 3


def test_chamfer_of_a_shifted_shape():
    """A plate shifted by 3 voxels along its normal is not 3 away each way."""
    a = torch.zeros(1, 9, 4, 5, dtype=torch.bool)
    a[0, 2] = True
    assert metrics.chamfer(a, a.roll(3, 1)).item() == pytest.approx(6)
    # a thick plate, layers 2..6 against 5..9: 3, 2, 1, 0, 0 from their nearest layers, each way
    a = torch.zeros(1, 12, 4, 5, dtype=torch.bool)
    a[0, 2:7] = True
    assert metrics.chamfer(a, a.roll(3, 1)).item() == pytest.approx(2 * 6 / 5)


def test_chamfer_of_empty_shapes():
    """A model that draws nothing gets NaN, or is nearer to the truth than one that draws."""
    a = torch.zeros(2, 2, 3, 6, dtype=torch.bool)
    a[1, 0, 0, 0] = True
    diagonal = math.sqrt(4 + 9 + 36)
    expected = torch.tensor([[0, 2 * diagonal], [2 * diagonal, 0]], dtype=torch.float64)
    assert torch.allclose(metrics.chamfer(a, a), expected)
    corner = a[1:].flip(1, 2, 3)  # as far as two voxels can be
    assert 0 < metrics.chamfer(a[1:], corner).item() < 2 * diagonal


def one_nna_of(a, b):
    a, b = np.reshape(a, (len(a), -1)), np.reshape(b, (len(b), -1))
    return metrics.one_nna(cdist(a, a), cdist(a, b), cdist(b, b))


def test_one_nna_by_hand():
    """A sample is its own neighbour, a set is left out, or a tie goes to one side."""
    # a 0, 1, 10; b 4, 9, 11. Nearest others: 0 a, 1 a, 10 b and b; 4 a (1), 9 a (10), 11 a (10)
    assert one_nna_of([0, 1, 10], [4, 9, 11]) == pytest.approx(2 / 6)
    # a 0, 2; b 4, 9: 0 a; 2 has a and b at 2, a tie; 4 a; 9 b (4)
    assert one_nna_of([0, 2], [4, 9]) == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    assert one_nna_of([4, 9], [0, 2]) == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    # b is 0 twice, a is 5, 7: 5 and 7 have each other, 0 has 0
    assert one_nna_of([5, 7], [0, 0]) == 1


def test_one_nna_of_whole_distributions():
    """0.5 is not what equal distributions give, or copies and disjoint sets are mixed up."""
    a, b = rng().normal(size=(300, 3)), rng(1).normal(size=(300, 3))
    assert one_nna_of(a, b) == pytest.approx(0.5, abs=0.06)  # over seeds: std 0.027
    assert one_nna_of(a, b + 20) == 1
    assert one_nna_of(a, a) == 0  # the copy, at 0, is nearer than all of the own set
    assert one_nna_of(np.ones((7, 2)), np.ones((7, 2))) == 0.5  # all tie


def test_rounding_decides_no_ties():
    """Two equal distances, computed in another order, make a sample look like its own set."""
    d = torch.tensor([[0, 1.0], [1, 0]], dtype=torch.float64) * 0.3
    other = torch.full((2, 2), 0.3, dtype=torch.float64) * (1 + 1e-15)
    assert (other > 0.3).all() and metrics.one_nna(d, other, d) == 0.5


def test_one_nna_on_voxels():
    """Chamfer and 1-NNA do not fit together, or 1-NNA writes into the distances it is given."""
    a, b = voxels(6), voxels(6, seed=1)
    a[:, :, :, 4:], b[:, :, :, :5] = False, False
    d = [metrics.chamfer(p, q).float() for p, q in ((a, a), (a, b), (b, b))]
    assert metrics.one_nna(*d) == 1
    assert metrics.one_nna(d[0], d[0], d[0]) == 0


# --------------------------------------------------------------------------------------------------
# vectors


def test_two_way_agrees_with_a_double_loop():
    """The right answer is compared with itself, ties win, or queries and gallery are swapped."""
    q, g = rng().normal(size=(13, 5)), rng(1).normal(size=(13, 5))
    g += 0.7 * q
    g[3], g[8] = 2 * g[4], 0  # a tie of cosines; a zero row
    unit = lambda v: v / max(np.linalg.norm(v), 1e-9)
    total = 0
    for n, m in np.ndindex(13, 13):
        gap = unit(q[n]) @ unit(g[n]) - unit(q[n]) @ unit(g[m])
        total += 0 if n == m else 0.5 if abs(gap) < 1e-6 else gap > 0
    assert metrics.two_way(q, g) == pytest.approx(total / (13 * 12))
    assert metrics.two_way(g, q) != pytest.approx(total / (13 * 12))


def test_two_way_at_chance_and_at_its_best():
    """Chance is not 0.5, collapsed answers are credited, or a perfect answer is not 1."""
    q = rng().normal(size=(400, 16))
    assert metrics.two_way(q, q) == 1
    assert metrics.two_way(q, -q) < 0.01
    assert metrics.two_way(q, rng(1).normal(size=(400, 16))) == pytest.approx(0.5, abs=0.05)
    assert metrics.two_way(q, np.repeat(q[:1], 400, 0)) == 0.5
    assert metrics.two_way(np.zeros((11, 3)), rng().normal(size=(11, 3))) == 0.5


# --------------------------------------------------------------------------------------------------
# errors

X = torch.zeros(2, 1, 11, 12)
V = torch.zeros(2, 3, 4, 5, dtype=torch.bool)
D = torch.ones(2, 2)
BAD = {
    "images of another shape": lambda: metrics.psnr(X[:1], X),  # would broadcast
    "images without a batch": lambda: metrics.psnr(X[0], X[0]),
    "no images": lambda: metrics.psnr(X[:0], X[:0]),
    "NaN in x_hat": lambda: metrics.ssim(X + NAN, X),
    "NaN in x": lambda: metrics.ssim(X, X + NAN),
    "Inf in both": lambda: metrics.psnr(X + math.inf, X + math.inf),
    "truth below the range": lambda: metrics.psnr(X, X - 1),
    "truth above the range": lambda: metrics.ssim(X, X + 255),
    "no range": lambda: metrics.psnr(X, X, 0, 0),
    "range the wrong way round": lambda: metrics.psnr(X, X, 1, 0),
    "image too small": lambda: metrics.ssim(X[..., :10], X[..., :10]),
    "one row": lambda: metrics.frechet(D[:1], D),
    "widths differ": lambda: metrics.frechet(D, torch.ones(2, 3)),
    "NaN features": lambda: metrics.frechet(D, D + NAN),
    "probabilities for voxels": lambda: metrics.iou(V.float(), V.float()),
    "no objects": lambda: metrics.iou(V[:0], V[:0]),
    "numbers of objects differ": lambda: metrics.iou(V[:1], V),  # would broadcast
    "grids differ": lambda: metrics.chamfer(V, V[:, :2]),
    "one shape, no batch": lambda: metrics.chamfer(V[0], V[0]),
    "sets of unequal size": lambda: metrics.one_nna(D, torch.ones(2, 3), torch.ones(3, 3)),
    "a single sample": lambda: metrics.one_nna(D[:1, :1], D[:1, :1], D[:1, :1]),
    "NaN distances": lambda: metrics.one_nna(D, D + NAN, D),
    "unpaired rows": lambda: metrics.two_way(D[:1], D),  # would broadcast
    "one pair": lambda: metrics.two_way(D[:1], D[:1]),
    "NaN queries": lambda: metrics.two_way(D + NAN, D),
    "logits for probabilities": lambda: metrics.inception_score(torch.ones(2, 3), 1),
    "negative probabilities": lambda: metrics.inception_score([[2, -1], [1, 0]], 1),
    "NaN probabilities": lambda: metrics.inception_score(D * NAN, 1),
    "one row of probabilities": lambda: metrics.inception_score([0.5, 0.5], 1),
    "no probabilities": lambda: metrics.inception_score(D[:0], 1),
    "an empty split": lambda: metrics.inception_score(D / 2, 3),
    "no captions": lambda: metrics.bleu([], []),
    "no captions, ROUGE": lambda: metrics.rouge_l([], []),
    "a caption without its list": lambda: metrics.bleu([["a"], ["b"]], [[["a"]]]),
    "a list without its caption": lambda: metrics.rouge_l([["a"]], [[["a"]], [["b"]]]),
    "no reference": lambda: metrics.bleu([["a"]], [[]]),
    "text for tokens": lambda: metrics.rouge_l(["a b"], [[["a"]]]),
    "one reference, no list": lambda: metrics.bleu([["a"]], [["a"]]),  # would count letters
}


@pytest.mark.parametrize("call", BAD.values(), ids=BAD.keys())
def test_errors_are_one_line(call):
    """Bad input gives a number instead of a ValueError of one line."""
    with pytest.raises(ValueError) as error:
        call()
    assert "\n" not in str(error.value) and len(str(error.value)) < 160


# --------------------------------------------------------------------------------------------------
# two translators together


def unit(x):
    return x / max(np.linalg.norm(x), 1e-12)


def normal(*shape, seed=0):
    return torch.from_numpy(rng(seed).normal(size=shape)).float()


def test_both_ways_is_the_sum_of_two_cosines():
    """A dot product, one cosine alone, or a translation of the wrong side is ranked by."""
    c, z = 3 * normal(6, 4), 5 * normal(9, 7, seed=1)
    z_hat, c_hat = 2 * normal(6, 7, seed=2), normal(9, 4, seed=3) / 4
    z_hat[2], c_hat[5] = 0, 0  # no direction: cosine 0 with everything
    want = np.empty((6, 9))
    for n in range(6):
        for i in range(9):
            want[n, i] = unit(z_hat[n].numpy()) @ unit(z[i].numpy())
            want[n, i] += unit(c[n].numpy()) @ unit(c_hat[i].numpy())
    np.testing.assert_allclose(metrics.both_ways(c, z, z_hat, c_hat), want, atol=1e-6)


def test_inverse_rotations_agree():
    """Translators that undo each other say the same thing twice; here another order comes out."""
    R = torch.linalg.qr(normal(5, 5))[0]
    c, z = normal(40, 5, seed=1), normal(30, 5, seed=2)
    S = metrics.both_ways(c, z, c @ R, z @ R.T)  # z_hat(c) = c R, c_hat(z) = z R^T
    one_way = torch.cosine_similarity((c @ R)[:, None], z[None], dim=2)
    torch.testing.assert_close(S, 2 * one_way, atol=1e-5, rtol=0)
    right = [[n % 30] for n in range(40)]
    assert metrics.ranks_of(S, right).tolist() == metrics.ranks(c @ R, z, right).tolist()


def test_ranks_of_is_ranks():
    """A matrix is ranked by another rule than two lists of vectors, or is changed by ranking."""
    q, g, right = normal(40, 7), normal(23, 7, seed=1), [[n % 23, n % 5] for n in range(40)]
    S = torch.nn.functional.normalize(q) @ torch.nn.functional.normalize(g).T
    before = S.clone()
    assert metrics.ranks_of(S, right).tolist() == metrics.ranks(q, g, right).tolist()
    assert torch.equal(S, before)
    tie = torch.tensor([[0.5, 0.5, 0.1], [0.5, 0.5, 0.5], [0.1, 0.5, 0.5]])
    assert metrics.ranks_of(tie, [[0], [1], [1, 2]]).tolist() == [2, 3, 1]


def test_hubs_out_by_hand():
    """A hub keeps its place, or what is taken off is not the softmax over the queries."""
    # Item 0 is a hub: the nearest one to every query. Similarities are tau log(...), tau = 0.5.
    S = 0.5 * torch.tensor([[8.0, 1, 1], [4, 2, 1], [4, 1, 2]]).log()
    share = torch.tensor([[8 / 16, 1 / 4, 1 / 4], [4 / 16, 2 / 4, 1 / 4], [4 / 16, 1 / 4, 2 / 4]])
    right = [[0], [1], [2]]
    assert metrics.ranks_of(S, right).tolist() == [1, 2, 2]
    before, out = S.clone(), metrics.hubs_out(S, 0.5)
    torch.testing.assert_close((out / 0.5).exp(), share)
    assert metrics.ranks_of(out, right).tolist() == [1, 1, 1] and torch.equal(S, before)
    # A small tau: the item's greatest similarity to any query is taken off, and nothing overflows.
    torch.testing.assert_close(metrics.hubs_out(S, 1e-3), S - S.max(0).values, atol=1e-3, rtol=0)


def test_hubs_out_item_by_item():
    """Items of the second chunk get the hubs of the first, or sums run over items."""
    S = normal(30, 600)
    want = S.double() - 0.1 * logsumexp(S.double() / 0.1, axis=0)
    np.testing.assert_allclose(metrics.hubs_out(S, 0.1), want, atol=1e-6)


def test_ties_stay_ties_without_hubs():
    """Rounding tells items apart that are alike, and a collapsed model is right by luck."""
    of = torch.from_numpy(rng().integers(0, 60, 601))  # 601 items, of which many are twins
    out = metrics.hubs_out(normal(50, 60)[:, of], 0.1)
    for item in range(60):
        twins = out[:, of == item]
        assert (twins == twins[:, :1]).all()
    every = [[n] for n in range(20)]
    assert metrics.ranks_of(metrics.hubs_out(torch.ones(20, 20), 0.1), every).tolist() == [20] * 20
    alone = metrics.hubs_out(normal(1, 20), 0.1)  # one query has no others to be compared with
    assert metrics.ranks_of(alone, [[3]]).tolist() == [20]


@pytest.mark.parametrize(
    "call",
    [
        lambda: metrics.ranks_of(torch.ones(2, 3), [[0]]),
        lambda: metrics.ranks_of(torch.ones(2, 3), [[0], []]),
        lambda: metrics.ranks_of(torch.full((1, 3), NAN), [[0]]),
        lambda: metrics.hubs_out(torch.full((1, 3), NAN), 0.1),
        lambda: metrics.both_ways(normal(2, 3), normal(4, 5), normal(2, 3), normal(4, 3)),
        lambda: metrics.both_ways(normal(2, 3), normal(4, 5), normal(2, 5), normal(4, 5)),
        lambda: metrics.both_ways(normal(2, 3), normal(4, 5), normal(1, 5), normal(4, 3)),
        lambda: metrics.both_ways(normal(2, 3), normal(4, 5), normal(2, 5), normal(1, 3)),
    ],
)
def test_both_ways_refuses_what_does_not_fit(call):
    """Translations of other queries, or of another pool, are ranked as if they belonged here."""
    with pytest.raises(ValueError):
        call()
