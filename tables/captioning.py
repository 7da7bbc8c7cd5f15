"""
tables/captioning.py: captions written from translated latents; MT Table 5 and Fig. 4.

    python tables/captioning.py runs/glyphs-translator              6 minutes on one core
    python tables/captioning.py runs/coco-translator --lm gpt2      ClipCap's language model

The problem. A cosine says how near a translated latent is to the true one, not whether the latent
still tells what is in the picture. So let something read the latent aloud, and score the words.

The reader is a CAPTION DECODER: a language model that continues a text, here GPT-2's architecture.
It reads tokens, words or parts of words, each as a vector. An MLP makes a few more such vectors
from a latent, the PREFIX, and the model continues them as if they were the beginning of a sentence:

    latent (h,) -> MLP ->   p1   p2   p3   p4     greek  small   letter  alpha    the model reads
                                           greek  small  letter  alpha   <eos>    it has to predict

<eos>, "end of sequence", is a token like the others. The model learns to write it, and a caption
ends where it does. There are two ways to train such a decoder:

    ClipCap   (arXiv 2111.09734) on latents of images. It needs pairs of images and captions.
    CapDec    (arXiv 2211.00575) on latents of texts, each with its own text. It needs no images.

For a translator image->text CapDec is the natural reader: its input is a text latent. But a
translated latent is never exact. A decoder that has seen exact latents only takes small differences
for meaning, and writes nonsense a little beside them. So CapDec adds NOISE to each latent in
training: then all latents around a true one mean the same caption. Too little, and it cannot read
translations; too much, and neighbouring captions blur. CapDec's noise is a constant; ours is half
of the error that the translator makes on validation pairs. Half was best there, of 0, 1/4, 1/2, 1
and 3/2. The rows of the table:

    ours + CapDec, ours + ClipCap     image -> translated latent -> words
    ours + nearest caption            the training caption whose latent is nearest to ours
    ClipCap, CapDec, no translator    image latent -> words (CapDec: where the widths are equal)
    caption of the nearest image      copied from the most similar training image: no decoder
    CapDec of the true latent         a true caption's latent -> words: what CapDec itself can do

Map      Captioner                   the decoder: prefix, loss, generation
         make_captioner              its tokenizer and language model, made here or pretrained
         fit_captioner, captioners   its training
         captioning                  MT Table 5; pictures.py draws Fig. 4
Letters  B captions of a batch   L tokens of the longest   N latents   h their width
"""

import argparse
import json
import os
import sys

import numpy as np
import torch
import torch.nn.functional as fn
from torch import nn
from tqdm import tqdm

# A script's own folder, tables/, is on Python's path; the files it imports are one folder above.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import evaluate
import metrics
from checkpoints import load_if_same, save_checkpoint
from devices import side_by_side
from encoders import fixed_sample, reason
from errors import EncoderError, run_script
from pictures import SHOWN, draw_captions
from pretrained import load_hf
from safe_files import write_json
from scores import at_work, print_scores

# Training steps of a decoder. A few captions it knows by heart after 100 passes over them; below
# 200 steps, a model of random weights hardly writes words.
LEAST_STEPS, MOST_STEPS, MOST_PASSES = 200, 2000, 100
MAX_TOKENS = 64  # of a caption, EOS included; those of COCO have about ten words, a name six

# transformers takes seconds to import, and reproduce.py imports this file for its list alone: so it
# is imported in the functions that use it.


class Captioner(nn.Module):
    """A causal language model `lm` that continues `prefix_length` vectors made from a latent.

    h: width of the latents, which are given raw. "Causal": the model predicts each token from what
    stands to its left. As ClipCap's variant with an MLP, whose language model is trained too."""

    def __init__(self, h, lm, tokenizer, prefix_length=10):
        super().__init__()
        from transformers import GenerationConfig

        self.h, self.prefix_length = h, prefix_length
        self.lm, self.tokenizer = lm, tokenizer
        self.eos = tokenizer.eos_token_id

        # All vectors of the prefix come out of the MLP side by side; its sizes are ClipCap's.
        outer = prefix_length * lm.get_input_embeddings().weight.shape[1]
        inner = nn.Linear(h, outer // 2)
        self.map = nn.Sequential(inner, nn.Tanh(), nn.Linear(outer // 2, outer))

        # A pretrained model may bring habits of writing, such as a penalty for repeated words.
        lm.generation_config = GenerationConfig()

    def prefix(self, latents, noise=0.0, generator=None):
        """(B, prefix_length, width) for latents (B, h); noise: see `loss`."""
        # Only the direction of a latent has meaning: a translation has another length.
        z = fn.normalize(latents, dim=1)
        if noise:
            # Drawn on the CPU: the same numbers whatever the device.
            eps = torch.randn(z.shape, generator=generator).to(z.device)
            z = fn.normalize(z + noise * eps)
        # The h coordinates of a unit vector have mean square 1 / h. An MLP that is fed such small
        # numbers gives nearly the same prefix for all latents at first; sqrt(h) makes it 1.
        vectors = self.map(z * self.h**0.5)  # (B, prefix_length * width)
        return vectors.unflatten(1, (self.prefix_length, -1))

    def tokens(self, captions):
        """ids (B, L): caption, EOS, padding, cut at MAX_TOKENS; mask (B, L): False on the padding.

        "dog" and "red fox" -> [[dog, EOS, EOS], [red, fox, EOS]] and [[1, 1, 0], [1, 1, 1]]."""
        ids = self.tokenizer(list(captions), add_special_tokens=False)["input_ids"]
        rows = [torch.tensor([*row, self.eos][:MAX_TOKENS]) for row in ids]
        lengths = torch.tensor([[len(row)] for row in rows])  # (B, 1)
        # Any token would do as padding: what stands there is never looked at (see `loss`).
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.eos)
        return ids, torch.arange(ids.shape[1]) < lengths

    def loss(self, latents, captions, noise=0.0, generator=None):
        """Mean cross-entropy, over their tokens and EOS, of B captions given latents (B, h).

        noise: standard deviation per coordinate of CapDec's Gaussian, for latents of length 1;
        they get length 1 again afterwards."""
        ids, mask = self.tokens(captions)
        ids = ids.to(latents.device)
        mask = mask.to(latents.device)

        # Teacher forcing: the model reads the TRUE words before each place, not its own guesses.
        # So all places are trained at once, in one pass over prefix and caption.
        prefix = self.prefix(latents, noise, generator)
        words = self.lm.get_input_embeddings()(ids)
        x = torch.cat([prefix, words], 1)  # (B, prefix_length + L, width)

        # No attention mask is needed. The padding is at the right end of short captions, and a
        # causal model looks to the left: no word of a caption sees it.
        logits = self.lm(inputs_embeds=x).logits  # (B, prefix_length + L, vocabulary)

        # The logits at a place are about the NEXT token. The last vector of the prefix predicts the
        # first word, and what comes after the last token nobody knows.
        logits = logits[:, self.prefix_length - 1 : -1]  # (B, L, vocabulary)
        return fn.cross_entropy(logits[mask], ids[mask])

    @torch.no_grad()
    def generate(self, latents, beams=5, batch=256):
        """A caption for each of the latents (N, h), by beam search; beams=1 is greedy.

        Greedy search writes the likeliest word, then the next. That can miss the likeliest caption:
        with "cat dog" 0.3, "cat moon" 0.3 and "fish bird" 0.4 it begins with "cat", of probability
        0.6, and ends at 0.3. Beam search keeps the likeliest `beams` beginnings at every word."""
        # <unk> stands for all words outside the vocabulary, so to write it says nothing, as does an
        # empty caption. (GPT-2's <unk> is its EOS, too: were that banned, no caption would end.)
        unknown = self.tokenizer.unk_token_id
        banned = None if unknown in (None, self.eos) else [unknown]
        special = dict(eos_token_id=self.eos, pad_token_id=self.eos, suppress_tokens=banned)
        search = dict(num_beams=beams, do_sample=False, min_new_tokens=1, max_new_tokens=MAX_TOKENS)
        captions = []
        self.eval()
        for z in latents.split(batch):
            x = self.prefix(z.to(self.map[0].weight.device))
            mask = torch.ones(x.shape[:2], dtype=torch.long, device=x.device)  # read all of it
            ids = self.lm.generate(inputs_embeds=x, attention_mask=mask, **special, **search)
            captions += self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [" ".join(caption.split()) for caption in captions]

    def state(self):
        """All there is to it, a large model's weights too: `captioner_from_state` asks no hub."""
        return {
            "h": self.h,
            "prefix_length": self.prefix_length,
            "tokenizer": self.tokenizer.backend_tokenizer.to_str(),
            "eos": self.tokenizer.eos_token,
            "unk": self.tokenizer.unk_token,
            "config": self.lm.config.to_json_string(),
            "weights": self.state_dict(),
        }


def captioner_from_state(state, device="cpu"):
    """The Captioner whose `state()` this is. EncoderError if it is not one's state."""
    from tokenizers import Tokenizer
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        words = Tokenizer.from_str(state["tokenizer"])
        tokenizer = fast_tokenizer(words, state["eos"], state["unk"])
        config = AutoConfig.for_model(**json.loads(state["config"]))
        lm = AutoModelForCausalLM.from_config(config, trust_remote_code=False).float()
        model = Captioner(state["h"], lm, tokenizer, state["prefix_length"])
        model.load_state_dict(state["weights"])
    except Exception as error:  # anything may be in a file
        raise EncoderError(f"this is not the state of a captioner: {reason(error)}") from error
    return model.to(device).eval()


def fast_tokenizer(words, eos, unk):
    """A tokenizer in transformers' wrapper, which is told its tokens for the end and for <unk>."""
    from transformers import PreTrainedTokenizerFast

    # Cleaning up would turn "dogs ." into "dogs.", which are other tokens.
    options = dict(eos_token=eos, unk_token=unk, clean_up_tokenization_spaces=False)
    return PreTrainedTokenizerFast(tokenizer_object=words, **options)


def word_tokenizer(captions):
    """One token a word: the 10,000 commonest, in lower case; "t-shirt" is one, a comma too.

    Where a script has no blanks, a character is a word: "红色的猫" is four (see metrics.WORD)."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    words = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.normalizer = normalizers.Lowercase()
    # Letters with their marks, and digits, with - ' or . only between them; or one sign that is no
    # blank. Here \w knows marks (\p{M}), and && means "and". `invert`: what Split removes is not
    # the matches, but what stands between them.
    letter = rf"[\w\u200c\u200d&&[^{metrics.SINGLE}]]"
    single = rf"[\p{{L}}\p{{N}}&&[{metrics.SINGLE}]]\p{{M}}*"
    word = Regex(rf"{single}|{letter}+(?:[-'’.]{letter}+)*|[^\w\s]")
    words.pre_tokenizer = pre_tokenizers.Split(word, "removed", invert=True)
    special = dict(special_tokens=["<eos>", "<unk>"], show_progress=False)
    words.train_from_iterator(captions, trainers.WordLevelTrainer(vocab_size=10_000, **special))
    return fast_tokenizer(words, "<eos>", "<unk>")


def make_captioner(h, lm="scratch", captions=(), download=False, seed=0, layers=2, width=128):
    """A Captioner to be trained, for latents h wide.

    lm   "scratch": a small GPT-2 (layers, width) whose words are those of `captions`;
         else a causal language model of huggingface.co, or its folder (gpt2 is ClipCap's)
    Raises EncoderError if there are no words, or if the model is not there or not whole."""
    torch.manual_seed(seed)  # for the first weights
    if lm != "scratch":
        return Captioner(h, *pretrained(lm, download))

    tokenizer = word_tokenizer(captions)
    if len(tokenizer) == 2:  # <eos> and <unk> alone
        raise EncoderError(f"a captioner needs captions to learn words from, got {len(captions)}")
    prefix_length = 4  # with ClipCap's 10 a step takes 1.7 times as long
    model = small_gpt2(tokenizer, prefix_length, layers, width)
    return Captioner(h, model, tokenizer, prefix_length)


def small_gpt2(tokenizer, prefix_length, layers, width):
    """GPT-2 with random weights: 0.4 million in 2 layers of width 128, 128 more for each word."""
    from transformers import GPT2Config, GPT2LMHeadModel

    size = dict(n_embd=width, n_layer=layers, n_head=4, n_positions=prefix_length + MAX_TOKENS)
    # No dropout: training is short, 2,000 steps of 32 captions are not one epoch of the glyphs.
    dropout = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    ends = dict(bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id)
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **size, **dropout, **ends))


def pretrained(lm, download):
    """(language model, tokenizer) by an ID of huggingface.co or a folder."""
    # "pooler" says that a weight which the files lack is an error.
    folder = os.path.expanduser(lm)
    model, tokenizer, _ = load_hf(lm, folder, "text", download, "pooler", "AutoModelForCausalLM")
    if not tokenizer.is_fast or tokenizer.eos_token is None:
        raise EncoderError(f"{lm}: needs a tokenizer.json and an end-of-text token")
    # Made anew in the plain form, so that a saved captioner can be made again without the folder.
    words = tokenizer.backend_tokenizer
    return model, fast_tokenizer(words, tokenizer.eos_token, tokenizer.unk_token)


def fit_captioner(
    model, latents, captions, rows, noise=0.0, steps=None, batch=32, lr=2e-3, seed=0, desc="words"
):
    """Trains all of a Captioner, in place; returns it.

    latents  (N, h) array or memory map; captions (L,) strings
    rows     (P, 2) integers: row (i, j) says that caption j is to be written for latent i
    steps    by default as many as `steps_for` says
    noise    0 for ClipCap; for CapDec, whose rows are (j, j), about half of `noise_level`
    lr       2e-3 is for "scratch"; ClipCap tunes GPT-2 with 2e-5"""
    from transformers import get_cosine_schedule_with_warmup

    if steps is None:
        steps = steps_for(len(rows), batch)
        print(f"{desc}: {steps:,} training steps for {len(rows):,} captions", file=sys.stderr)
    torch.manual_seed(seed)  # for the dropout of a pretrained model
    generator = torch.Generator().manual_seed(seed)  # for batches and noise
    device = next(model.parameters()).device

    # The learning rate rises for a twentieth of the steps, then falls to 0 along half a cosine.
    optimizer = torch.optim.AdamW(model.parameters(), lr, fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    model.train()
    for _ in tqdm(range(steps), desc, disable=None):
        chosen = torch.randint(len(rows), (batch,), generator=generator).numpy()
        i, j = rows[chosen].T
        z = torch.from_numpy(latents[i]).to(device)
        words = [captions[k] for k in j.tolist()]

        # A gradient longer than 1 is cut to length 1: no single batch may throw the weights away.
        optimizer.zero_grad()
        model.loss(z, words, noise, generator).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def steps_for(n, batch):
    """Training steps for n captions: 2,000 or 100 passes, whichever is less; but at least 200."""
    steps = min(MOST_STEPS, MOST_PASSES * n // batch)
    return max(LEAST_STEPS, steps)


def noise_level(z_hat, z):
    """sqrt(mean((unit(z_hat) - unit(z))^2)) over rows and coordinates, both (N, h): the error per
    coordinate that the decoder of a translator will meet.

    |unit(a) - unit(b)|^2 = 2 - 2 cos: a cosine of 0.48 at h = 256 means sqrt(1.04 / 256) = 0.064,
    as much as the coordinates of a unit vector have themselves, 1 / 16."""
    error = fn.normalize(z_hat, dim=1) - fn.normalize(z, dim=1)
    return error.square().mean().sqrt().item()


def captioners(evaluation, noises, lm="scratch"):
    """{name: a decoder of latents into words} for {name: noise}, trained once; kept in RUN/NAME.pt.

    "capdec": trained on text latents with noise, without images; "clipcap": on image latents."""
    run, captions = evaluation.run, evaluation.train_set.captions
    # All that the weights depend on: where one of these is new, a decoder is trained again.
    stamp = {"data": evaluation.train_set.key, "lm": lm}
    stamp["encoders"] = [run.E_image.fingerprint, run.E_text.fingerprint]
    path = {name: os.path.join(run.folder, f"{name}.pt") for name in noises}
    found, missing = {}, []
    for name, noise in noises.items():
        saved = load_if_same(path[name], {**stamp, "noise": noise})
        if saved:
            found[name] = captioner_from_state(saved.get("captioner"), run.device)
            continue
        source, rows = examples(evaluation, name)
        # Half a million captions have all common words; CC3M has three million.
        words = [captions[j] for j in rows[fixed_sample(len(rows), 500_000), 1].tolist()]
        model = make_captioner(len(source[0]), lm, words, evaluation.download)
        found[name] = model.to(run.device)
        missing.append(name)

    def train(name):
        model, noise = found[name], noises[name]
        source, rows = examples(evaluation, name)
        fit_captioner(model, source, captions, rows, noise, desc=name)
        save_checkpoint(path[name], {**stamp, "noise": noise, "captioner": model.state()})

    # A pretrained model has dropout; ours, from scratch, has none.
    side_by_side(train, missing, run.device, random=lm != "scratch")
    return found


def examples(evaluation, name):
    """(latents (N, h), rows (P, 2)) that a decoder learns from: see fit_captioner."""
    latents = evaluation.training
    pairs = latents.pairs[latents.full]  # image i, caption j
    if name == "capdec":
        return latents.text, pairs[:, [1, 1]]  # a caption is written for its own latent
    return latents.image, pairs


# --------------------------------------------------------------------------------------------------
# MT Table 5

TABLE_5 = """MT, COCO, CLIP RN50x4, B@1, B@4, R-L: ours + CapDec 67.7, 25.5, 48.7; ours + ClipCap
65.9, 23.6, 47.7; CapDec itself 69.2, 26.4, 51.8; ClipCap itself 74.7, 33.5, -"""


def captioning(evaluation, lm="scratch", noise=None, most=1000):
    """MT Table 5: image -> its text latent, translated -> words; and other ways to a caption.

    lm: as in make_captioner. noise: CapDec's; half of the translator's error unless given.
    most: so many test pairs at most. Writes RUN/captioning.json, captioning.png, captions.txt."""
    if not evaluation.has_images():
        return print("\ncaptioning: skipped, the run knows latents and no captions")

    # CapDec's noise. Rounded, so that the last digits of an error do not train it anew.
    run, validation = evaluation.run, evaluation.validation
    c_val, z_val = validation.of("image->text", validation.full[:2000])
    level = noise_level(run.translate("image->text", c_val), z_val)
    noise = round(level / 2, 4) if noise is None else noise

    found = captioners(evaluation, {"capdec": noise, "clipcap": 0.0}, lm)
    capdec, clipcap = found["capdec"], found["clipcap"]
    images, first, references = test_images(evaluation, most)
    c = torch.from_numpy(evaluation.latents.image[images])  # (N, h1)
    true = torch.from_numpy(evaluation.latents.text[first])  # (N, h2)
    captions = write_captions(evaluation, capdec, clipcap, c, true)

    # Each caption is scored against all true captions of its image.
    tokens = [tokens_of(texts) for texts in references]
    table = {}
    for method, seeds in captions.items():
        table[method] = [caption_scores(texts, tokens) for texts in seeds]

    errors = f"CapDec's noise {noise:.4f}, the translator's error {level:.4f} a coordinate"
    print(f"\n{evaluation.label('captioning')}: {len(images)} images; {errors}")
    print_scores(table, ("bleu1", "bleu2", "bleu3", "bleu4", "rouge_l"), (1,) * 5)
    if evaluation.on == run.args.dataset == "coco":
        print(TABLE_5)
    note = {"images": len(images), "noise": noise, "lm": lm, "seeds": evaluation.seeds}
    write_json(evaluation.path("captioning", ".json"), {**note, "rows": table})

    shown = {method: captions[method][0] for method in SHOWN}
    draw_captions(evaluation, images, shown, references)


def test_images(evaluation, most):
    """images (N,) of the first `most` test pairs, with (N,) first captions and N lists of texts.

    images and first captions are row numbers of the latents; the texts are all its captions."""
    pairs = evaluation.latents.pairs
    images = np.unique(pairs[evaluation.rows[:most], 0])
    first, texts = {}, {i: [] for i in images.tolist()}
    # From all test pairs, not only those drawn: an image of COCO has five captions.
    for i, j in pairs[evaluation.latents.full].tolist():
        if i in texts:
            first.setdefault(i, j)
            texts[i].append(evaluation.test.captions[j])
    return images, [first[i] for i in texts], list(texts.values())


def write_captions(evaluation, capdec, clipcap, c, true):
    """{row of the table: [N captions with noise seed 0, 1, ...]}; rows without chance have one.

    c (N, h1) image latents, true (N, h2) text latents of their captions"""
    run = evaluation.run
    z_hats = [run.translate("image->text", c, seed) for seed in evaluation.seeds]

    # ClipCap reads image latents. Where both spaces have one width it is given the translation
    # itself, as in MT; else the translation is translated back, and its errors are those of both.
    same_width = c.shape[1] == true.shape[1]
    as_image = z_hats if same_width else [run.translate("text->image", z) for z in z_hats]

    captions = {
        "ours + CapDec": [capdec.generate(z) for z in z_hats],
        "ours + ClipCap": [clipcap.generate(z) for z in as_image],
        "ours + nearest caption": [evaluation.nearest_captions(z) for z in z_hats],
        "ClipCap, no translator": [clipcap.generate(c)],
    }
    if same_width:
        captions["CapDec, no translator"] = [capdec.generate(c)]
    captions["caption of the nearest image"] = [evaluation.nearest_captions(c, "image")]
    captions["CapDec of the true latent"] = [capdec.generate(true)]
    return captions


def tokens_of(texts):
    return [metrics.caption_tokens(text) for text in texts]


def caption_scores(texts, references):
    """{metric: in percent, as papers print them} of N texts; references: N lists of token lists."""
    tokens = tokens_of(texts)
    scores = {}
    for n, value in enumerate(metrics.bleu(tokens, references), start=1):
        scores[f"bleu{n}"] = 100 * value
    scores["rouge_l"] = 100 * metrics.rouge_l(tokens, references)
    return scores


def parse(argv=None):
    parser = argparse.ArgumentParser(description="Captions from translated latents.")
    evaluate.add_flags(parser, pool=False)
    models = "a small GPT-2 made here (scratch), or one of Hugging Face, ID or folder"
    parser.add_argument("--lm", default="scratch", help=models)
    usual = "CapDec's noise; default half of the translator's error on validation"
    parser.add_argument("--noise", type=float, help=usual)
    args = parser.parse_args(argv)
    evaluate.check_flags(parser, args)
    # NaN fails here, too: it is not below infinity.
    if args.noise is not None and not 0 <= args.noise < float("inf"):
        parser.error(f"--noise {args.noise}: a finite number, 0 or more")
    return args


def main(argv=None):
    args = parse(argv)
    with at_work(args.run):
        evaluation = evaluate.open_evaluation(args, trained=())  # no kNN, no MLP in this table
        captioning(evaluation, args.lm, args.noise, args.limit or 1000)


if __name__ == "__main__":
    run_script("tables/captioning.py", main)
