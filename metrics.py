"""
metrics.py: the definitions of all metrics, and nothing else. Arrays or tensors in, floats out.

A table of scores is worth as much as its definitions: PSNR with another range, BLEU with another
tokeniser, or retrieval that lets ties win are other numbers under the same names. So each metric
stands here once, with its formula and its source, and the tests compare it with the field's tools.

Vectors   cosine (MT 4.2) says little by itself: a constant answer, the mean of the training
          targets, already has 0.7 on CLIP latents. Beside it stand centred_cosine, where that
          constant scores 0; unrelated_cosine, the score against somebody else's target; and
          recall_at_k, where a constant finds one query's answer in G. two_way is recall with a
          gallery of two. both_ways and hubs_out rank by two translators.
Images    psnr, ssim: how far from the truth? frechet: how far apart are two sets, pairs forgotten?
          inception_score: is each image of a clear class, and are all classes there?
Captions  bleu, rouge_l: how many words, in order, are shared with the references? They count as
          COCO's pycocoevalcap does.
Voxels    iou: how far from the truth? one_nna, on chamfer: can two sets be told apart?
By hand   z_hat = [[1, 0], [1, 1]] and z = [[1, 0], [0, 2]] have cosines 1 and 0.7071, mean 0.8536.
          Let z be the gallery and row n the answer of query n. Query 0 has rank 1. Query 1 is as
          near to both rows: a tie, which counts against it, rank 2. So R@1 = 0.5 and R@2 = 1.
Letters   N queries or shapes   G gallery   d width   B, C, H, W images   D, H, W voxels
Errors    ValueError for NaN, Inf, nothing at all, and shapes that do not fit
Try       python -c "import metrics; print(metrics.cosine([[1, 0], [1, 1]], [[1, 0], [0, 2]]))"
"""

import re
import unicodedata
from collections import Counter

import numpy as np
import torch
import torch.nn.functional as fn
from scipy.ndimage import distance_transform_edt

# --------------------------------------------------------------------------------------------------
# Vectors


def rows(x):
    """(N, d) float32 tensor. Raises ValueError where x is no matrix, is empty, holds NaN or Inf."""
    x = torch.as_tensor(x).float()
    if x.ndim != 2 or not x.numel() or not x.isfinite().all():
        raise ValueError(f"a finite (N, d) matrix is needed, this one is {tuple(x.shape)}")
    return x


def same(a, b):
    """a and b as they are. Raises ValueError where shapes differ, which torch might broadcast."""
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {tuple(a.shape)} and {tuple(b.shape)}")
    return a, b


def cosine(z_hat, z):
    """Mean over rows of z_hat . z / (|z_hat| |z|); both (N, d). Sim_txt or Sim_img of MT 4.2."""
    z_hat, z = same(rows(z_hat), rows(z))
    return fn.cosine_similarity(z_hat, z).mean().item()


def centred_cosine(z_hat, z, mean):
    """Cosine after subtracting `mean` (d,), the mean of the *training* targets, from both sides."""
    z_hat, z, mean = rows(z_hat), rows(z), torch.as_tensor(mean)
    same(z[0], mean)
    return cosine(z_hat - mean, z - mean)


def unrelated_cosine(z_hat, z, groups, seed=0):
    """Cosine to a random target of another group: the score of not being about the query at all.

    groups (N,) integers: rows of one group are each other's right answers."""
    groups, N = torch.as_tensor(groups), len(z_hat)
    if groups.shape != (N,) or (groups == groups[0]).all():
        raise ValueError(f"groups {tuple(groups.shape)}: {N} are needed, and at least two kinds")

    # Sorted by group, the rows of my group stand together: at start, ..., start + size - 1.
    ordered, order = groups.sort()
    start = torch.searchsorted(ordered, groups)
    end = torch.searchsorted(ordered, groups, right=True)
    size = end - start

    # Draw one of the N - size other places: count as if my group were not there, then jump over it.
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(N, generator=generator, dtype=torch.float64)  # in [0, 1)
    place = (u * (N - size)).long()
    place += size * (place >= start)
    return cosine(z_hat, rows(z)[order[place]])


def ranks(queries, gallery, positives, chunk=2048):
    """Rank of each query's best positive, (N,): 1 + how many wrong items are at least as similar.

    positives[n]: list of gallery indices that are right for query n. A tie counts against the
    query, else a collapsed model, whose answers are equally near to everything, would be right
    every time. queries (N, d), gallery (G, d); similarity is cosine."""
    q, g = fn.normalize(rows(queries)), fn.normalize(rows(gallery))
    same(q[0], g[0])
    found = check_positives(positives, len(q))
    # In chunks of queries: 25,000 captions by 5,000 images at once would take 500 MB.
    for start in range(0, len(q), chunk):
        similarity = q[start : start + chunk] @ g.T  # (chunk, G)
        for n, s in enumerate(similarity, start):
            found[n] = rank_of_best(s, positives[n])
    return found


def ranks_of(similarity, positives):
    """`ranks` by any similarity (N, G), not only by the cosine of two vectors."""
    similarity = rows(similarity)
    found = check_positives(positives, len(similarity))
    for n, s in enumerate(similarity):
        found[n] = rank_of_best(s, positives[n])
    return found


def check_positives(positives, N):
    """(N,) integers, to be filled with ranks. ValueError unless each query has a right answer."""
    if len(positives) != N or not all(len(right) for right in positives):
        told = f"{len(positives)} lists of right answers for {N} queries, none empty"
        raise ValueError(told)
    return torch.empty(N, dtype=torch.long)


def rank_of_best(s, right):
    """1 + how many wrong items are at least as similar as the best of `right`; s (G,)"""
    right = torch.as_tensor(right)
    best = s[right].max()
    s = s.clone()  # the caller's row stays as it is
    s[right] = -torch.inf  # other right answers are no competitors
    return 1 + (s >= best).sum()


def both_ways(c, z, z_hat, c_hat):
    """s(c, z) = cos(z_hat(c), z) + cos(c, c_hat(z)), (N, G): what both translators say of a pair.

    c (N, h1) are queries and z_hat (N, h2) their translations; z (G, h2) is the gallery, c_hat
    (G, h1) its translations by the translator of the other direction. The two err in different
    places: an item that one takes for right by mistake, the other one seldom does, too."""
    c, z, z_hat, c_hat = rows(c), rows(z), rows(z_hat), rows(c_hat)
    # One line of z_hat a query, one of c_hat an item; and the two of a pair have one width.
    same(z_hat[:, 0], c[:, 0])
    same(c_hat[:, 0], z[:, 0])
    same(z_hat[0], z[0])
    same(c_hat[0], c[0])
    there = fn.normalize(z_hat) @ fn.normalize(z).T
    back = fn.normalize(c) @ fn.normalize(c_hat).T
    # 500 MB each for 25,000 captions and 5,000 images: added in place, there are never three.
    return there.add_(back)


def hubs_out(similarity, tau):
    """s(c, z) - tau log sum_c' exp(s(c', z) / tau), (N, G): is z nearer to c than to the others?

    A hub is an item near to the answers of many queries: it is high in many lists, and right in
    few. The sum is over all N queries; what is subtracted is about the item's greatest similarity
    to any of them (just that as tau -> 0). Divided by tau > 0, the score is the log of a softmax
    over the queries: the share of z's similarity that is c's. Smith et al. 2017, inverted softmax.

    It looks at all queries of the test together (transductive): in other company a query has other
    scores, and alone it has none. So it is no method for queries that come one by one."""
    similarity = rows(similarity)
    # In chunks of items, for the memory: a sum needs all queries of one item, and no other item.
    # In float64, or rounding might break the ties of items that are alike.
    hubs = [(s.double() / tau).logsumexp(0) for s in similarity.split(256, dim=1)]  # (256,) each
    return similarity - (tau * torch.cat(hubs)).float()


def recall_at_k(rank, k):
    """Share of queries whose best positive is among the first k; rank (N,) from `ranks`."""
    return (torch.as_tensor(rank) <= k).double().mean().item()


def accuracy(predicted, label):
    """Share of rows where the two agree; both (N,)."""
    predicted, label = same(torch.as_tensor(predicted), torch.as_tensor(label))
    return (predicted == label).double().mean().item()


def two_way(queries, gallery):
    """Matching accuracy with two candidates, the right one and a wrong one; chance is 0.5.

    Mean over all n and all m != n of [cos(q_n, g_n) > cos(q_n, g_m)], a tie counts one half. Rows
    are pairs, both (N, d), N at least 2. The face-voice test of Nagrani et al. 2018."""
    q, g = same(rows(queries).double(), rows(gallery).double())
    N = len(q)
    if N < 2:
        raise ValueError("two-way matching needs two pairs at least, here is 1")
    similarity = fn.normalize(q) @ fn.normalize(g).T  # (N, N)
    # Computed in float64, compared in float32: the last bits are rounding and would decide ties.
    similarity = similarity.float()
    right = similarity.diag()[:, None]  # (N, 1)
    won = (right > similarity).double() + (right == similarity).double() / 2
    # The diagonal, where the right one meets itself, is N ties: N / 2 is taken off.
    return ((won.sum() - N / 2) / (N * (N - 1))).item()


# --------------------------------------------------------------------------------------------------
# Images


def images(x_hat, x, low, high):
    """Both (B, C, H, W) as float32, x_hat clamped to [low, high]. The truth has to lie there."""
    x_hat, x = same(torch.as_tensor(x_hat).cpu().float(), torch.as_tensor(x).cpu().float())
    if x.ndim != 4 or not x.numel() or not (x_hat - x).isfinite().all():
        raise ValueError(f"finite images (B, C, H, W) are needed, these are {tuple(x.shape)}")
    # The commonest mistake with PSNR: images in [-1, 1] scored as if they were in [0, 1].
    slack = 1e-4 * (high - low)  # rounding
    if not (low < high and low - slack <= x.min() and x.max() <= high + slack):
        span = f"[{x.min():g}, {x.max():g}]"
        raise ValueError(f"true images span {span}: low={low:g}, high={high:g} is not their range")
    return x_hat.clamp(low, high), x


def psnr(x_hat, x, low=0.0, high=1.0):
    """Mean over images of 10 log10((high - low)^2 / MSE), dB, at most 100 each; (B, C, H, W).

    MSE is one image's, over channels and pixels; an image without error counts 100 dB. The range
    is stated, never inferred from x_hat, where overshoot widens it and earns decibels. x_hat is
    clamped to the range, as saving a picture does. Mean of decibels, not decibels of the mean."""
    x_hat, x = images(x_hat, x, low, high)
    mse = (x_hat - x).double().square().mean((1, 2, 3)) / (high - low) ** 2  # (B,)
    decibels = -10 * mse.clamp(min=1e-10).log10()  # 1e-10 is the 100 dB
    return decibels.mean().item()


def ssim(x_hat, x, low=0.0, high=1.0):
    """Structural similarity of Wang et al. 2004; (B, C, H, W) of 11 pixels at least; 1 is equal.

    (2 mu nu + C1) (2 cov + C2) / ((mu^2 + nu^2 + C1) (var + var' + C2)), moments under a Gaussian
    window of 11 x 11 pixels and sigma 1.5, population variances, C1 = (0.01 (high - low))^2, C2 =
    (0.03 (high - low))^2. Mean over windows wholly inside, channels, images; clamped as in psnr."""
    x_hat, x = images(x_hat, x, low, high)
    if min(x.shape[2:]) < 11:
        raise ValueError(f"SSIM's window has 11 x 11 pixels, images are {tuple(x.shape[2:])}")

    # The window is a product of two Gaussians, so blurring along columns, then along rows, will do.
    g = torch.exp(-(torch.arange(-5, 6).double() ** 2) / (2 * 1.5**2))
    g = (g / g.sum()).view(1, 1, 11, 1)

    def blur(plane):
        return fn.conv2d(fn.conv2d(plane, g), g.mT)

    # Wang's constants. Without them two black windows would be 0 / 0, and the noise of two nearly
    # flat ones would be compared as if it were structure.
    C1, C2 = (0.01 * (high - low)) ** 2, (0.03 * (high - low)) ** 2
    scores = []
    # 256 planes (image and channel) at a time: float64 and five blurs need memory.
    parts_hat, parts = x_hat.flatten(0, 1).split(256), x.flatten(0, 1).split(256)
    for part_hat, part in zip(parts_hat, parts, strict=True):
        p = part_hat.double()[:, None]  # (up to 256, 1, H, W)
        q = part.double()[:, None]
        mu, nu = blur(p), blur(q)
        covariance = blur(p * q) - mu * nu
        variances = blur(p * p) - mu**2 + blur(q * q) - nu**2
        top = (2 * mu * nu + C1) * (2 * covariance + C2)
        bottom = (mu**2 + nu**2 + C1) * (variances + C2)
        scores.append((top / bottom).mean((1, 2, 3)))
    return torch.cat(scores).mean().item()


def root(C):
    """Symmetric square root of a covariance; eigenvalues below 0 are rounding."""
    values, vectors = torch.linalg.eigh(C)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def frechet(f, g):
    """Squared Frechet distance between Gaussians fitted to features f (N, d) and g (M, d).

    |mu_f - mu_g|^2 + tr(C_f + C_g - 2 (C_f C_g)^(1/2)), covariances with N - 1. FID, where the
    features are Inception's. It falls with N: compare equal N only."""
    f, g = rows(f).double(), rows(g).double()
    same(f[0], g[0])
    if min(len(f), len(g)) < 2:
        raise ValueError(f"a covariance needs two rows at least, here are {len(f)} and {len(g)}")
    C_f = torch.atleast_2d(torch.cov(f.T))  # (d, d); torch gives a scalar if d = 1
    C_g = torch.atleast_2d(torch.cov(g.T))
    mean = (f.mean(0) - g.mean(0)).square().sum()
    # The trace of (C_f C_g)^(1/2) is the sum of the singular values of C_f^(1/2) C_g^(1/2). Unlike
    # a matrix root of the product, that also works where covariances are singular (N <= d).
    cross = torch.linalg.svdvals(root(C_f) @ root(C_g)).sum()
    distance = mean + C_f.trace() + C_g.trace() - 2 * cross
    return max(0.0, distance.item())


def inception_score(p, splits=10):
    """(mean, std) over splits of exp(mean over rows of KL(p(y|x) || p(y))); p (N, classes).

    1 to classes; Salimans et al. 2016: p(y) is the mean of a split's rows, std divides by splits.
    Splits are consecutive, so rows sorted by class have to be shuffled first. It depends on N."""
    p = np.asarray(p, dtype=np.float64)
    if p.ndim != 2 or not 1 <= splits <= len(p) or not (p >= 0).all():  # NaN fails too
        raise ValueError(f"p {p.shape}: (N, classes), N >= splits={splits}, none below 0 or NaN")
    if abs(p.sum(1) - 1).max() > 1e-3:
        raise ValueError("the rows of p do not sum to 1: give probabilities, softmax of the logits")
    cuts = [i * len(p) // splits for i in range(1, splits)]
    scores = []
    for part in np.split(p, cuts):
        # Where p is 0, the ratio stays 1, for 0 log 0 is 0 here and NaN in floating point.
        ones = np.ones_like(part)
        ratio = np.divide(part, part.mean(0), out=ones, where=part > 0)
        divergence = (part * np.log(ratio)).sum(1)  # KL of each row
        scores.append(np.exp(divergence.mean()))
    return float(np.mean(scores)), float(np.std(scores))


# --------------------------------------------------------------------------------------------------
# Captions

# What a word is, in any script. Python's \w is a letter or a digit, but no mark: a sign that is
# written over, under or beside a letter. Hindi writes its vowels so, and a word of it would fall
# apart. The two in front are invisible: they say how their neighbours are joined.
MARKS = "\u200c\u200d" + "".join(
    sign for sign in map(chr, range(0x300, 0x20000)) if unicodedata.category(sign)[0] == "M"
)
# Scripts that put no blanks between words: without a dictionary a whole clause would be one word,
# which no second caption has. There each character counts as a word, as in Chinese BERT.
SINGLE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao; Burmese; Khmer
    "\u3005-\u3007\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff\uff66-\uff9f"  # kana, bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"  # Chinese
)
CHARACTER = rf"(?=\w)[{SINGLE}][{MARKS}]*"  # the ranges have a few signs of punctuation, too
LETTER = rf"[^\W{SINGLE}]"  # of all other scripts
RUN = f"{LETTER}+(?:[{MARKS}]+{LETTER}*)*"
WORD = f"{CHARACTER}|{RUN}"

TOKEN = re.compile(
    r"(?:mr|mrs|ms|dr|st|ave|ft|jr|vs|etc)\.|(?:[a-z]\.)+(?!\w)"  # keep their dot, as does p.m.
    rf"|n't\b|'(?:s|m|d|ll|re|ve)\b|{LETTER}+?(?=n't\b)"  # is n't, dog 's
    r"|\b(?:can(?=not\b)|(?:gon|wan)(?=na\b)|got(?=ta\b))"  # can not, gon na
    rf"|{CHARACTER}"
    # t-shirt, o'clock, 1,000
    rf"|{RUN}(?:(?!'(?:s|m|d|ll|re|ve)\b)(?:[-'/.]|(?<=\d)[,:](?=\d)){RUN})*"
    r"|[!?]+|\S"  # !!, and whatever is left, a character each
)
DROPPED = set(".?!,:;-'`\"“”‘–—…" + "。．，、；：！？「」『』《》〈〉·・।॥،؛؟۔၊။។")


def caption_tokens(text):
    """List of the words of a caption, lower case, cut as in the Penn Treebank, punctuation dropped.

    "A man isn't riding the dog's bike!" -> a man is n't riding the dog 's bike
    "लाल बिल्ली।"   -> लाल बिल्ली   words have their vowel signs
    "红色的猫。"     -> 红 色 的 猫   where there are no blanks, a character is a word

    After pycocoevalcap's PTBTokenizer (Java, Stanford CoreNLP 3.4.1). Brackets stay, as they do
    there: its list drops -LRB-, but Java writes -lrb-; here "(", which counts alike. Java also
    knows further abbreviations (jan., no. 9), 'tis, y'all, lemme, and keeps at&t, @home, '80s.
    In scripts without blanks (Chinese, Japanese, Thai, ...) Java takes a clause for one word."""
    words = TOKEN.findall(text.lower().replace("’", "'"))
    return [word for word in words if word not in DROPPED]


def paired(hypotheses, references):
    """Pairs (tokens, list of tokens). Raises ValueError for none, unequal numbers and bare text."""
    if not len(hypotheses) or len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses, {len(references)} lists of references")
    for n, (h, refs) in enumerate(zip(hypotheses, references, strict=True)):
        # A bare string is a sequence, too: its letters would be counted as words.
        if not len(refs) or any(isinstance(tokens, str) for tokens in (h, *refs)):
            raise ValueError(f"caption {n}: lists of tokens are needed, and one reference at least")
    return zip(hypotheses, references, strict=True)


def ngrams(tokens, n):
    """Counter of the n-grams: of "a b a b", n = 2: {(a, b): 2, (b, a): 1}."""
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def closest_length(tokens, refs):
    """Length of the reference that is nearest in length; of two as near, the shorter."""
    differences = [(abs(len(ref) - len(tokens)), len(ref)) for ref in refs]
    return min(differences)[1]


def bleu(hypotheses, references, n=4):
    """BLEU-1..n of the whole set, (n,), each in 0..1; Papineni et al. 2002 as in pycocoevalcap.

    hypotheses: N lists of tokens. references: N lists of one or more lists of tokens.
    (prod_{i<=k} correct_i / guess_i)^(1/k) min(1, exp(1 - closest / length)), k = 1..n, from sums
    over the set: i-grams of the hypotheses, how many of them are in a reference (each at most as
    often as in the one with most), words, and words of the reference of the closest length."""
    correct, guess, length, closest = np.zeros(n), np.zeros(n), 0, 0
    for h, refs in paired(hypotheses, references):
        length += len(h)
        closest += closest_length(h, refs)
        for k in range(n):
            # "the the the" earns no more "the"s than the reference with most of them has. | of two
            # Counters takes the larger count of each n-gram, & the smaller.
            most = Counter()
            for ref in refs:
                most |= ngrams(ref, k + 1)
            guess[k] += max(0, len(h) - k)
            correct[k] += (ngrams(h, k + 1) & most).total()

    # Geometric means of the precisions of 1-grams, of 1- and 2-grams, ... Nothing divides by 0:
    # the two small numbers are pycocoevalcap's.
    tiny, small = 1e-15, 1e-9
    precision = (correct + tiny) / (guess + small)
    score = np.cumprod(precision) ** (1 / np.arange(1, n + 1))
    # Few sure words would have a high precision: what is shorter than its references pays for it.
    ratio = (length + tiny) / (closest + small)
    return score * np.exp(min(0, 1 - 1 / ratio))


def lcs(a, b):
    """Length of the longest common subsequence of two lists: same order, gaps allowed.

    Row i of the usual table holds, at j, the answer for the first i words of a and the first j of
    b. A row needs only the one above it."""
    row = [0] * (len(b) + 1)
    for x in a:
        above, row = row, [0]
        for j, y in enumerate(b):
            longest = above[j] + 1 if x == y else max(above[j + 1], row[j])
            row.append(longest)
    return row[-1]


def rouge_l(hypotheses, references, beta=1.2):
    """Mean over captions of (1 + beta^2) P R / (R + beta^2 P), Lin 2004 as in pycocoevalcap.

    P = lcs / words of the hypothesis, R = lcs / words of the reference, each the largest over the
    references, even of different ones. Nothing in common, or no words, scores 0. Shapes: bleu."""
    scores = []
    for h, refs in paired(hypotheses, references):
        common = [lcs(h, ref) for ref in refs]
        # max(1, ...): an empty caption has nothing in common, and 0 / 1 is 0.
        P = max(common) / max(1, len(h))
        recalls = [c / max(1, len(ref)) for c, ref in zip(common, refs, strict=True)]
        R = max(recalls)
        score = (1 + beta**2) * P * R / (R + beta**2 * P) if P else 0.0
        scores.append(score)
    return float(np.mean(scores))


# --------------------------------------------------------------------------------------------------
# Voxels


def solids(x):
    """(N, D, H, W) bool tensor: which voxels are occupied. The threshold is the caller's."""
    x = torch.as_tensor(x).cpu()
    if x.ndim != 4 or not x.numel() or x.dtype != torch.bool:
        kind = f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"
        raise ValueError(f"bool voxels (N, D, H, W) are needed, these are {kind}")
    return x


def iou(a, b):
    """Mean over objects of |a and b| / |a or b|; both (N, D, H, W) bool. Both empty counts 1.

    Per object: pooled over the set, large objects would decide."""
    a, b = same(solids(a).flatten(1), solids(b).flatten(1))
    both = (a & b).sum(1).double()  # (N,)
    either = (a | b).sum(1)
    return torch.where(either > 0, both / either, 1.0).mean().item()


def one_way(a, b):
    """(N, M): mean over the voxels of a[n] of the Euclidean distance to the nearest of b[m]."""
    # For each b[m], the distance from every voxel of the grid to the nearest one of b[m]: scipy's
    # transform measures to the nearest False, so the shape is inverted. V voxels in the grid.
    far = torch.tensor(b.shape[1:]).double().norm().item()  # longer than any distance in the grid
    to_b = torch.full((len(b), b[0].numel()), far, dtype=torch.float64)  # (M, V)
    for m, shape in enumerate(b):
        if shape.any():
            to_b[m] = torch.from_numpy(distance_transform_edt(~shape.numpy())).flatten()
    # Then one product sums these distances over the voxels of every a[n].
    inside = a.flatten(1).double()  # (N, V)
    means = inside @ to_b.T / inside.sum(1, keepdim=True)
    return means.nan_to_num(far)  # 0 / 0: a[n] is empty


def chamfer(a, b):
    """(N, M) symmetric Chamfer distances, in voxels, of bool (N, D, H, W) and (M, D, H, W).

    Mean over the voxels of a[n] of the distance to the nearest voxel of b[m], plus the reverse;
    exact, over all occupied voxels, distances not squared. An empty shape is as far as the grid's
    diagonal, each way, from every other, and at 0 from an empty one."""
    a, b = solids(a), solids(b)
    same(a[0], b[0])
    d = one_way(a, b) + one_way(b, a).T
    empty_a, empty_b = ~a.flatten(1).any(1), ~b.flatten(1).any(1)
    d[empty_a[:, None] & empty_b] = 0.0
    return d


def one_nna(d_aa, d_ab, d_bb):
    """1-nearest-neighbour accuracy (Lopez-Paz & Oquab 2017): can sets a and b be told apart?

    The share of samples of both whose nearest other sample is of their own set; a tie between
    the sets counts one half. d_ab (N, N) distances from a to b, d_aa and d_bb within (diagonals
    are ignored). 0.5 is ideal, 1 disjoint. Below 0.5, a[n] is nearer to b[n] than samples are to
    each other: exact copies give 0, so where b answers a in pairs, low is no fault."""
    d_aa, d_ab, d_bb = rows(d_aa), rows(d_ab), rows(d_bb)  # float32: rounding decides no ties
    N = len(d_ab)
    if N < 2 or not d_aa.shape == d_ab.shape == d_bb.shape == (N, N):
        shapes = ", ".join(str(tuple(d.shape)) for d in (d_aa, d_ab, d_bb))
        raise ValueError(f"1-NNA needs sets of equal size, two or more; distances are {shapes}")

    def won(own, other):
        """For each sample, a row: 1 where its nearest is of its own set, 0.5 for a tie."""
        # A sample is at distance 0 from itself, on the diagonal: it must not find itself.
        own = own.clone().fill_diagonal_(torch.inf).amin(1)
        other = other.amin(1)
        return (own < other).double() + (own == other).double() / 2

    of_a, of_b = won(d_aa, d_ab), won(d_bb, d_ab.T)
    return torch.cat([of_a, of_b]).mean().item()
