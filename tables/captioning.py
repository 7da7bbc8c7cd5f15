"""
tables/captioning.py: MT Table 5 and Fig. 4, captions written from translated latents.
"""

import argparse
import json
import os
import sys

import numpy as np
import torch
import torch.nn.functional as fn
from matplotlib.figure import Figure
from torch import nn
from tqdm import tqdm

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import evaluate
import metrics
from data import DataError
from encoders import EncoderError, fixed_sample, load_hf, reason
from pictures import show_image
from runs import RunError, load_if_same, save_checkpoint
from scores import print_scores, write_json

MOST = 64  # tokens of a caption, EOS included


class Captioner(nn.Module):
    """A causal language model that continues `prefix` vectors, made from a latent by an MLP.

    ClipCap (arXiv 2111.09734): trained on image latents. CapDec (2211.00575): on text latents plus
    noise, without images, then it reads latents of images. Latents are raw; it sets their length.
    """

    def __init__(self, h, lm, tokenizer, prefix=10):
        super().__init__()
        from transformers import GenerationConfig

        self.h, self.prefix, self.lm, self.tokenizer = h, prefix, lm, tokenizer
        self.eos, width = tokenizer.eos_token_id, lm.get_input_embeddings().weight.shape[1]
        inner, outer = width * prefix // 2, width * prefix
        self.map = nn.Sequential(nn.Linear(h, inner), nn.Tanh(), nn.Linear(inner, outer))
        lm.generation_config = GenerationConfig()  # a hub model may bring penalties of its own

    def read(self, latents, noise=0.0, generator=None):
        """(B, prefix, width) for latents (B, h); noise: see `loss`."""
        z = fn.normalize(latents, dim=1)
        if noise:  # drawn on the CPU: the same numbers for any device
            z = fn.normalize(z + noise * torch.randn(z.shape, generator=generator).to(z.device))
        # sqrt(h): inputs of mean square 1, so that the first prefixes differ between latents
        return self.map(z * self.h**0.5).unflatten(1, (self.prefix, -1))

    def tokens(self, captions):
        """ids (B, L): caption, EOS, padding, cut at MOST; mask (B, L): False on the padding."""
        ids = self.tokenizer(list(captions), add_special_tokens=False)["input_ids"]
        rows = [torch.tensor([*row, self.eos][:MOST]) for row in ids]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.eos)
        return ids, torch.arange(ids.shape[1]) < torch.tensor([[len(row)] for row in rows])

    def loss(self, latents, captions, noise=0.0, generator=None):
        """Mean cross-entropy, over their tokens and EOS, of B captions given latents (B, h).

        noise: standard deviation per coordinate of CapDec's Gaussian, for latents of length 1;
        they get length 1 again afterwards."""
        ids, mask = (x.to(latents.device) for x in self.tokens(captions))
        prefix = self.read(latents, noise, generator)
        x = torch.cat([prefix, self.lm.get_input_embeddings()(ids)], 1)
        # no attention mask: the padding is on the right, where a causal model does not look
        logits = self.lm(inputs_embeds=x).logits[:, self.prefix - 1 : -1]  # (B, L, words)
        return fn.cross_entropy(logits[mask], ids[mask])

    @torch.no_grad()
    def generate(self, latents, beams=5, batch=256):
        """A caption for each of the latents (N, h), by beam search; beams=1 is greedy."""
        unknown = self.tokenizer.unk_token_id
        banned = None if unknown in (None, self.eos) else [unknown]
        how = dict(eos_token_id=self.eos, pad_token_id=self.eos, suppress_tokens=banned)
        how |= dict(min_new_tokens=1, max_new_tokens=MOST, num_beams=beams, do_sample=False)
        captions = []
        self.eval()
        for z in latents.split(batch):
            x = self.read(z.to(self.map[0].weight.device))
            mask = torch.ones(x.shape[:2], dtype=torch.long, device=x.device)
            out = self.lm.generate(inputs_embeds=x, attention_mask=mask, **how)  # without prefix
            captions += self.tokenizer.batch_decode(out, skip_special_tokens=True)
        return [" ".join(caption.split()) for caption in captions]

    def state(self):
        """All there is to it, a large model's weights too: `captioner_from_state` asks no hub."""
        tool = self.tokenizer
        words = dict(tokenizer=tool.backend_tokenizer.to_str(), eos=tool.eos_token)
        model = dict(config=self.lm.config.to_json_string(), weights=self.state_dict())
        return dict(h=self.h, prefix=self.prefix, unk=tool.unk_token, **words, **model)


def captioner_from_state(state, device="cpu"):
    """The Captioner whose `state()` this is; torch.load(weights_only=True) can read it."""
    from tokenizers import Tokenizer
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        tool = fast_tokenizer(Tokenizer.from_str(state["tokenizer"]), state["eos"], state["unk"])
        config = AutoConfig.for_model(**json.loads(state["config"]))
        lm = AutoModelForCausalLM.from_config(config, trust_remote_code=False).float()
        captioner = Captioner(state["h"], lm, tool, state["prefix"])
        captioner.load_state_dict(state["weights"])
    except Exception as error:  # anything may be in a file
        raise EncoderError(f"this is not the state of a captioner: {reason(error)}") from error
    return captioner.to(device).eval()


def fast_tokenizer(tool, eos, unk):
    from transformers import PreTrainedTokenizerFast

    options = dict(eos_token=eos, unk_token=unk, clean_up_tokenization_spaces=False)
    return PreTrainedTokenizerFast(tokenizer_object=tool, **options)


def word_tokenizer(captions):
    """One token a word: the 10,000 commonest, in lower case; "t-shirt" is one, a comma too."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    tool = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tool.normalizer = normalizers.Lowercase()
    words = Regex(r"\w+(?:[-'’.]\w+)*|[^\w\s]")
    tool.pre_tokenizer = pre_tokenizers.Split(words, "removed", invert=True)
    special = dict(special_tokens=["<eos>", "<unk>"], show_progress=False)
    tool.train_from_iterator(captions, trainers.WordLevelTrainer(vocab_size=10_000, **special))
    return fast_tokenizer(tool, "<eos>", "<unk>")


def make_captioner(h, lm="scratch", captions=(), download=False, seed=0, layers=2, width=128):
    """A Captioner to be trained, for latents h wide.

    lm   "scratch": a small GPT-2 (layers, width) whose words are those of `captions`;
         else a causal language model of huggingface.co, or its folder (gpt2 is ClipCap's)
    Raises EncoderError if there are no words, or if the model is not there or not whole."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)  # for the first weights
    if lm != "scratch":
        name, Model = os.path.expanduser(lm), "AutoModelForCausalLM"
        model, tool, _ = load_hf(lm, name, "text", download, "pooler", Model)  # no weight may lack
        if not tool.is_fast or tool.eos_token is None:
            raise EncoderError(f"{lm}: needs a tokenizer.json and an end-of-text token")
        tool = fast_tokenizer(tool.backend_tokenizer, tool.eos_token, tool.unk_token)
        return Captioner(h, model, tool)
    tool, prefix = word_tokenizer(captions), 4  # with ClipCap's 10 a step takes 1.7 times as long
    if len(tool) == 2:
        raise EncoderError(f"a captioner needs captions to learn words from, got {len(captions)}")
    size = dict(n_embd=width, n_layer=layers, n_head=4, n_positions=prefix + MOST)
    drop = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    ends = dict(bos_token_id=tool.eos_token_id, eos_token_id=tool.eos_token_id)
    config = GPT2Config(vocab_size=len(tool), **size, **drop, **ends)
    return Captioner(h, GPT2LMHeadModel(config), tool, prefix)


def fit_captioner(
    model, latents, captions, rows, noise=0.0, steps=2000, batch=32, lr=2e-3, seed=0, desc="words"
):
    """Trains all of a Captioner, in place; returns it.

    latents  (N, h) array or memory map; captions (L,) strings
    rows     (P, 2) integers: row (i, j) says that caption j is to be written for latent i
    noise    ClipCap: 0. CapDec, with text latents and rows (j, j): up to `noise_level`, to be
             chosen on validation captions; on glyphs a quarter to a half was best
    lr       2e-3 is for "scratch"; ClipCap tunes GPT-2 with 2e-5"""
    from transformers import get_cosine_schedule_with_warmup

    torch.manual_seed(seed)  # for dropout
    g, device = torch.Generator().manual_seed(seed), next(model.parameters()).device
    optimizer = torch.optim.AdamW(model.parameters(), lr, fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    model.train()
    for _ in tqdm(range(steps), desc, disable=None):
        i, j = rows[torch.randint(len(rows), (batch,), generator=g).numpy()].T
        z, words = torch.from_numpy(latents[i]).to(device), [captions[k] for k in j.tolist()]
        loss = model.loss(z, words, noise, g)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def noise_level(z_hat, z):
    """sqrt(mean((unit(z_hat) - unit(z))^2)) over rows and coordinates, both (N, h): the error per
    coordinate that the decoder of a translator will meet."""
    return (fn.normalize(z_hat, dim=1) - fn.normalize(z, dim=1)).square().mean().sqrt().item()


TABLE_5 = """MT, COCO, CLIP RN50x4, B@1, B@4, R-L: ours + CapDec 67.7, 25.5, 48.7; ours + ClipCap
65.9, 23.6, 47.7; CapDec itself 69.2, 26.4, 51.8; ClipCap itself 74.7, 33.5, -"""


def captioner(evaluation, name, noise, lm="scratch"):
    """A decoder of latents into words, trained on the run's captions once; kept in RUN/NAME.pt.

    "capdec": trained on text latents with noise, without images; "clipcap": on image latents."""
    run, latents, captions = evaluation.run, evaluation.training, evaluation.train_set.captions
    pairs = latents.pairs[latents.full]
    texts, images = (latents.text, pairs[:, [1, 1]]), (latents.image, pairs)
    source, rows = {"capdec": texts, "clipcap": images}[name]
    stamp = {"data": evaluation.train_set.key, "lm": lm, "noise": noise}
    stamp["encoders"] = [run.E_image.fingerprint, run.E_text.fingerprint]
    path = os.path.join(run.folder, f"{name}.pt")
    if saved := load_if_same(path, stamp):
        return captioner_from_state(saved["captioner"], run.device)
    words = [captions[j] for j in pairs[fixed_sample(len(pairs), 500_000), 1].tolist()]
    made = make_captioner(len(source[0]), lm, words, evaluation.download)
    fit_captioner(made.to(run.device), source, captions, rows, noise, desc=name)
    save_checkpoint(path, {**stamp, "captioner": made.state()})
    return made.eval()


def captioning(evaluation, lm="scratch", noise=None, most=1000):
    """MT Table 5: image -> its text latent, translated -> words; and other ways to a caption.

    CapDec reads text latents. ClipCap reads image latents: where both have one width it is given
    the translation itself, as in MT, else the translation's translation back."""
    if not evaluation.has_images():
        return print("\ncaptioning: skipped, the run knows latents and no captions")
    run, there, back = evaluation.run, "image->text", "text->image"
    images = np.unique(evaluation.latents.pairs[evaluation.rows[:most], 0])
    references = {i: [] for i in images.tolist()}
    for i, j in evaluation.latents.pairs[evaluation.latents.full].tolist():
        if i in references:
            references[i].append(j)
    c = torch.from_numpy(evaluation.latents.image[images])
    true = torch.from_numpy(evaluation.latents.text[[references[i][0] for i in images.tolist()]])
    c_val, z_val = evaluation.validation.of(there, evaluation.validation.full[:2000])
    level = noise_level(run.translate(there, c_val), z_val)
    noise = round(level / 2, 4) if noise is None else noise
    capdec, clipcap = (
        captioner(evaluation, "capdec", noise, lm),
        captioner(evaluation, "clipcap", 0.0, lm),
    )
    z_hats = [run.translate(there, c, s) for s in evaluation.seeds]
    equal = c.shape[1] == true.shape[1]
    as_image = (lambda z: z) if equal else (lambda z: run.translate(back, z))
    answers = {
        "ours + CapDec": [capdec.generate(z) for z in z_hats],
        "ours + ClipCap": [clipcap.generate(as_image(z)) for z in z_hats],
        "ours + nearest caption": [evaluation.nearest_captions(z) for z in z_hats],
        "ClipCap, no translator": [clipcap.generate(c)],
        **({"CapDec, no translator": [capdec.generate(c)]} if equal else {}),
        "caption of the nearest image": [evaluation.nearest_captions(c, "image")],
        "CapDec of the true latent": [capdec.generate(true)],
    }
    words = [[evaluation.test.captions[j] for j in references[i]] for i in images.tolist()]
    tokens = [[metrics.caption_tokens(w) for w in refs] for refs in words]
    table = {m: [caption_scores(texts, tokens) for texts in seeds] for m, seeds in answers.items()}
    how = f"CapDec's noise {noise:.4f}, the translator's error {level:.4f} a coordinate"
    print(f"\n{evaluation.label('captioning')}: {len(images)} images; {how}")
    print_scores(table, ("bleu1", "bleu2", "bleu3", "bleu4", "rouge_l"), (1,) * 5)
    if evaluation.on == run.args.dataset == "coco":
        print(TABLE_5)
    note = {"images": len(images), "noise": noise, "lm": lm, "seeds": evaluation.seeds}
    write_json(evaluation.path("captioning", ".json"), {**note, "rows": table})
    draw_captions(evaluation, images, {m: seeds[0] for m, seeds in answers.items()}, words, tokens)


def caption_scores(texts, references):
    """{metric: in percent, as captioning papers print them}"""
    said = [metrics.caption_tokens(t) for t in texts]
    marks = {f"bleu{n + 1}": 100 * b for n, b in enumerate(metrics.bleu(said, references))}
    return {**marks, "rouge_l": 100 * metrics.rouge_l(said, references)}


KINDS = {"right": 1.0, "similar": 0.7, "confused": 0.4, "other": 0.0}  # ROUGE-L of at least


def draw_captions(evaluation, images, answers, words, tokens, each=2):
    """MT Fig. 4, by ROUGE-L of "ours + CapDec": a picture of a few, a text file of all."""
    ours = [metrics.caption_tokens(t) for t in answers["ours + CapDec"]]
    marks = [metrics.rouge_l([o], [refs]) for o, refs in zip(ours, tokens, strict=True)]
    kind = [next(k for k, least in KINDS.items() if m >= least - 1e-9) for m in marks]
    order = np.random.default_rng(0).permutation(len(images))
    chosen = [[n for n in order if kind[n] == k][:each] for k in KINDS]
    chosen = [int(n) for some in chosen for n in some]
    share = {k: kind.count(k) / len(kind) for k in KINDS}
    fig = Figure(figsize=(8, 0.95 * len(chosen)), layout="constrained")
    axes = fig.subplots(len(chosen), 2, squeeze=False, width_ratios=(1, 8))
    shown = ("ours + CapDec", "ours + ClipCap", "caption of the nearest image")
    for (left, right), n in zip(axes, chosen, strict=True):
        show_image(left, evaluation.test.images[int(images[n])])
        lines = [f"{kind[n].upper()}, {share[kind[n]]:.0%} of {len(images)}"]
        lines += [f"{m}: {answers[m][n]}" for m in shown] + [f"reference: {words[n][0]}"]
        right.axis("off")
        right.text(0, 0.5, "\n".join(lines), va="center", fontsize=8, parse_math=False)
    evaluation.figure(fig, evaluation.label("captioning"))
    with open(evaluation.path("captions", ".txt"), "w", encoding="utf-8") as f:
        for n, i in enumerate(images.tolist()):
            says = [f"  {m}: {answers[m][n]}" for m in shown]
            says += [f"  reference: {w}" for w in words[n]]
            print(
                f"image {getattr(evaluation.test.images, 'name', str)(i)}", *says, sep="\n", file=f
            )


def parse(argv=None):
    parser = argparse.ArgumentParser(description="Captions from translated latents.")
    evaluate.add_flags(parser)
    lm = "a small GPT-2 made here (scratch), or one of Hugging Face, ID or folder"
    parser.add_argument("--lm", default="scratch", help=lm)
    noise = "CapDec's noise; default half of the translator's error on validation"
    parser.add_argument("--noise", type=float, help=noise)
    args = parser.parse_args(argv)
    evaluate.check_flags(parser, args)
    if args.noise is not None and not 0 <= args.noise < float("inf"):
        parser.error(f"--noise {args.noise}: a finite number, 0 or more")
    return args


def main(argv=None):
    args = parse(argv)
    evaluation = evaluate.open_evaluation(args, trained=())
    captioning(evaluation, args.lm, args.noise, args.limit or 1000)


if __name__ == "__main__":
    try:
        main()
    except (RunError, DataError, EncoderError, ValueError, OSError) as error:
        sys.exit(f"tables/captioning.py: {error}")
