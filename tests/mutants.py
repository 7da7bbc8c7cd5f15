"""
mutants.py: planted bugs, each of which the suite must catch. Not a test by itself.

    python tests/mutants.py                        plants each in a copy of the repository
    python tests/mutants.py guidance               only those whose name contains the word
    python tests/mutants.py --tests test_train.py  only those that this file must catch
    pytest -m slow                                 the same as a test

Each line: name | file | what stands there | what a tired programmer writes | tests that must fail.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time

import processes
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DDIM, TRANSLATOR = "ddim_translator.py", "test_translator.py"
CLOSED, CLOSED_FORM = "closed_form.py", "test_closed_form.py"
RELEASED, AS_RELEASED = "as_released.py", "test_as_released.py"
BRIDGE, NETWORKS = "latent_bridge.py", "bridge_networks.py"
ORACLES, TURNS = "test_bridge.py", "test_train_bridge.py"
WIRING = "test_wiring.py"
SOUND = "test_sounds.py"
FETCHING = "test_fetch.py"
LATENT_FILES, OWN_VECTORS = "data_latents.py", "test_own_vectors.py"
MUTANTS = [
    ("schedule not cumulative", DDIM, "** torch.arange(T + 1", "* torch.ones(T + 1", TRANSLATOR),
    ("schedule unscaled", DDIM, "beta = BETA_TIMES_T / T\n", "beta = BETA_TIMES_T / 1000\n", TRANSLATOR),
    (
        "noising without roots",
        DDIM,
        "alpha_t.sqrt() * z_0 + (1 - alpha_t).sqrt() * eps  #",
        "alpha_t * z_0 + (1 - alpha_t) * eps  #",
        TRANSLATOR,
    ),
    ("Eq. 3 as printed", DDIM, "kept = (1 - alpha_s - sigma", "kept = (1 - alpha_t - sigma", TRANSLATOR),
    ("sigma kept in the mean", DDIM, "kept = (1 - alpha_s - sigma**2)", "kept = (1 - alpha_s)", TRANSLATOR),
    ("last step to alpha_1", DDIM, "linspace(self.T, 0,", "linspace(self.T, 1,", TRANSLATOR),
    ("eta ignored", DDIM, "return z_s if eta == 0 else", "return z_s if eta >= 0 else", TRANSLATOR),
    (
        "guidance convention",
        DDIM,
        "return (1 + omega) * e_c - omega * e_0",
        "return omega * e_c + (1 - omega) * e_0",
        TRANSLATOR,
    ),
    ("guidance halves swapped", DDIM, "e_c, e_0 = both.chunk(2)", "e_0, e_c = both.chunk(2)", TRANSLATOR),
    ("condition kept when dropped", DDIM, "torch.where(keep[", "torch.where(~keep[", TRANSLATOR),
    ("c not injected", DDIM, "+ self.from_c(c)", "+ 0 * self.from_c(c)", TRANSLATOR),
    ("no skip connections", DDIM, "layer(torch.cat([h, z_t], 1)", "layer(torch.cat([h, 0 * z_t], 1)", TRANSLATOR),
    ("v with the wrong sign", DDIM, "eps - (1 - alpha_t).sqrt() * z_0\n", "eps + (1 - alpha_t).sqrt() * z_0\n", TRANSLATOR),
    ("F not normalised", DDIM, "return fn.normalize(z_0, dim=1)", "return z_0", TRANSLATOR),
    ("mean not put back", DDIM, "z_0 = z_0 / self.r_scale + mean", "z_0 = z_0 / self.r_scale", TRANSLATOR),
    ("K samples mixed", DDIM, "z_0.view(K, len(c), self.h2).mean(0)", "z_0.view(len(c), K, self.h2).mean(1)", TRANSLATOR),
    ("units not undone", DDIM, "(cM + gamma * F) / self.z_scale", "(cM + gamma * F)", TRANSLATOR),
    ("gamma* without kappa", CLOSED, "up = (q - c1 * kappa)", "up = q", TRANSLATOR),
    ("M without bias", DDIM, "self.M.bias.copy_(found.z_mean * z_scale)", "self.M.bias.zero_()", TRANSLATOR),
    ("lam1 and lam2 swapped", DDIM, "lam1 * L_recon + lam2 * L_ddim, L", "lam2 * L_recon + lam1 * L_ddim, L", TRANSLATOR),
    ("L_recon squared", DDIM, "(z_rows - z_hat).abs()", "(z_rows - z_hat).square()", TRANSLATOR),
    ("scale per coordinate", DDIM, "z_scale = found.z_var.mean().rsqrt()", "z_scale = found.z_var.max().rsqrt()", TRANSLATOR),
    ("resume forgets the optimiser", "train.py", 'for k in ("net", "ema", "optimizer"):\n            getattr(self, k).load', 'for k in ("net", "ema"):\n            getattr(self, k).load', "test_train.py"),
    ("resume one step late", "checkpoints.py", 'self.first = self.old["step"]', 'self.first = self.old["step"] + 1', "test_train.py"),
    ("gradients summed", "devices.py", "mean = flat / world", "mean = 1 * flat", "test_train.py"),
    ("every process the same slice", "train.py", "rank * args.batch // world, (rank", "0 * args.batch // world, (rank", "test_train.py"),
    ("checkpoint written in place", "checkpoints.py", "torch.save(checkpoint, temporary)", "torch.save(checkpoint, path)", "test_train.py"),
    ("checkpoints unpickled", "checkpoints.py", "weights_only=True)", "weights_only=False)", "test_train.py"),
    ("NaN goes on", "checkpoints.py", "if not broken:", "if True:", "test_train.py"),
    ("bare names as targets", "runs.py", 'args.bare if direction == "text->image" else 0.0', "args.bare", "test_train.py"),
    ("ties count for us", "metrics.py", "(s >= best)", "(s > best)", "test_evaluate.py"),
    ("other positives compete", "metrics.py", "s[right] = -torch.inf", "pass", "test_evaluate.py"),
    ("truncated cache is used", "latents.py", 'record["crc32"] == checksum', "True or checksum", "test_latents.py"),
    ("checksum of the first megabyte", "latents.py", "while block := f.read", "if block := f.read", "test_latents.py"),
    ("broken images kept", "latents.py", "~np.isin(split.pairs[:, 0], broken)", "np.isin(split.pairs[:, 0], split.pairs[:, 0])", "test_latents.py"),
    ("faces on both sides of the split", "glyphs.py", 'uniforms("glyphs", 0, int(code))', 'uniforms("glyphs", 0, int(code), len(codes))', "test_data.py"),
    ("std not pinned at T", BRIDGE, "s * (rho2 * (1 - q)).sqrt()", "s * rho2.sqrt()", ORACLES),
    ("exp(u) - 1", BRIDGE, "torch.exp(-u / 2), torch.expm1(u)", "torch.exp(-u / 2), torch.exp(u) - 1", ORACLES),
    ("no booting noise", BRIDGE, "+ std_s * randn(z_T.shape, device=z_T.device)  #", "+ 0 * randn(z_T.shape, device=z_T.device)  #", ORACLES),
    ("eta = 1 not Markov", BRIDGE, "(std_t * a_s / a_t) ** 2", "(std_t * b_s / b_t) ** 2", ORACLES),
    ("eta out of its range", BRIDGE, "if not 0 <= eta <= 1:", "if not eta <= 1:", ORACLES),
    ("kick not rooted", BRIDGE, "math.sqrt(kernel.g2(t) * (t - m))", "kernel.g2(t) * (t - m)", ORACLES),
    ("SDE without its half", BRIDGE, "(slope - kernel.g2(t) / 2 * score)", "(slope - kernel.g2(t) * score)", ORACLES),
    ("masks without place", NETWORKS, "self.placed(self.mask.expand(len(z), self.N, -1))", "self.mask.expand(len(z), self.N, -1)", ORACLES),
    ("answers read at z_t", NETWORKS, "h[:, -self.N :]", "h[:, : self.N]", ORACLES),
    ("c_out without covariance", BRIDGE, "a**2 * (m_0 * m_T - m_0T**2)", "a**2 * (m_0 * m_T)", ORACLES),
    ("no stop-gradient", BRIDGE, "self.estimate(z_0.detach(), z_T, noise)", "self.estimate(z_0, z_T, noise)", ORACLES),
    ("memory at every step", BRIDGE, "return self.denoise(z_t, t, memory)", "return self.denoise(z_t, t, self.net.remember(z_T))", ORACLES),
    ("InfoNCE one direction", BRIDGE, "fn.cross_entropy(logits.T, right)", "fn.cross_entropy(logits, right)", ORACLES),
    ("L_pred sees the target", BRIDGE, "L_pred = self.pred_loss(z0_hat, x)", "L_pred = self.pred_loss(z0_hat + 0.1 * z_0, x)", ORACLES),
    ("patches lose the last pixels", NETWORKS, "and height % p == 0 and width % p == 0", "", ORACLES),
    ("InfoNCE sees one process", "train_bridge.py", "gather = gather_all if world > 1 else None", "gather = None", TURNS),
    ("moments stay local", BRIDGE, "self.measure(*everyone)", "self.measure(z_0, z_T)", TURNS),
    ("one optimiser not restored", "train_bridge.py", 'optimizer.load_state_dict(state["optimizers"][side])', "pass", TURNS),
    ("two-step never switches", "train_bridge.py", 'if step < args.steps // 2 else "bridge"', 'if step < args.steps else "bridge"', TURNS),
    ("one rate for both sides", "train_bridge.py", '"modality", args.lr_modality * decay', '"modality", args.lr * decay', TURNS),
    ("noise is not its slice", "train_bridge.py", "BridgeNoise(*(part[mine] for part in noise))", "BridgeNoise(*(part[: len(y)] for part in noise))", TURNS),
    ("images not clamped", "metrics.py", "return x_hat.clamp(low, high), x", "return x_hat, x", "test_metrics.py"),
    ("IoU pooled over the batch", "metrics.py", "torch.where(either > 0, both / either, 1.0).mean()", "(both.sum() / either.sum())", "test_metrics.py"),
    ("1-NNA finds itself", "metrics.py", "own.clone().fill_diagonal_(torch.inf).amin(1)", "own.clone().amin(1)", "test_metrics.py"),
    ("block means cut off", "glyphs.py", "np.rint(blocks", "np.floor(blocks", "test_pairs.py"),
    ("binvox upside down", "data_pairs.py", "volume.transpose(2, 0, 1)[::-1]", "volume.transpose(2, 0, 1)", "test_pairs.py"),
    ("a solid depends on the others", "glyphs.py", "FACES[file], int(code), pose)", "len(packed), int(code), pose)", "test_pairs.py"),
    ("solid upside down", "glyphs.py", "volume[top : top + h] = mask[", "volume[top : top + h] = mask[::-1][", "test_pairs.py"),
    ("hull of any view", "glyphs.py", "hull = hull & shown", "hull = shown", "test_pairs.py"),
    ("faces of other characters", "glyphs.py", "in_sans = np.isin(serif_names, sans_names)", "in_sans = np.isin(serif_names, sans_names)[::-1]", "test_pairs.py"),
    ("a new photo moves old ones", "data_files.py", "u = np.fromiter(crc, np.float64, len(ids)) / 2**32", "u = np.argsort(np.fromiter(crc, np.float64, len(ids))) / len(ids)", "test_data.py"),
    ("keys cut at their first dot", "data_cc3m.py", "key, kind = os.path.splitext(member.name)", "key, dot, kind = member.name.partition('.'); kind = dot + kind", "test_data.py"),
    ("pairs of neighbours only", "data_cc3m.py", "                if key in images and key in texts:", "                images = {k: v for k, v in images.items() if k == key}; texts = {k: v for k, v in texts.items() if k == key}\n                if key in images and key in texts:", "test_data.py"),
    ("a damaged header ends a shard", "data_cc3m.py", "            raise tarfile.ReadError(f\"no header, and no end, at byte {archive.offset}\")", "            return", "test_data.py"),
    ("tarfile keeps all members", "data_cc3m.py", "archive.members = []", "pass", "test_data.py"),
    ("y and x of two batches", "data_pairs.py", "        return both(i)[1]", "        return both(i - 1)[1]", "test_pairs.py"),
    ("odd pairs pass", "data_pairs.py", "    if (array.shape, array.dtype) == like:", "    if True:", "test_pairs.py"),
    ("only the first archive of a file", "data_cc3m.py", """        if not block.strip(b"\\0"):""", "        if True:", "test_cc3m.py"),
    ("stems without a partner in silence", "data_cc3m.py", """skipped.setdefault(reason, []).extend(""", "list(", "test_cc3m.py"),
    ("a table reads anywhere", "data_cc3m.py", "            if leads_out(file, root):", "            if False:", "test_cc3m.py"),
    ("quotes stay in captions", "data_cc3m.py", """" ".join(unquoted(text).split())""", """" ".join(text.split())""", "test_cc3m.py"),
    ("a quoted line break ends a record", "data_cc3m.py", "        while quote_is_open(record):", "        while False:", "test_cc3m.py"),
    ("channels stay last", "data_arrays.py", "    if last <= 4:\n        return np.ascontiguousarray(np.moveaxis(array, -1, -3))\n", "", "test_pairs.py"),
    ("channels swapped, not moved", "data_arrays.py", "np.moveaxis(array, -1, -3)", "np.swapaxes(array, -1, -3)", "test_pairs.py"),
    ("embeddings are pictures", "data_arrays.py", "    if sum(n != 1 for n in shape) <= 1 and array.size:", "    if array.ndim == 1 and array.size:", "test_pairs.py"),
    ("depth maps of 8 bits", "data_arrays.py", "            if image.mode not in DEEP:", "            if True:", "test_pairs.py"),
    ("a broken pair's neighbour changes", "data_pairs.py", "        for other in (*range(i, len(rows)), *range(i)):", "        for other in (i, *np.random.permutation(len(rows))):", "test_pairs.py"),
    ("any number of broken pairs", "data_pairs.py", "        if len(self.broken) > MAY_BE_BROKEN * len(self.items):", "        if False:", "test_pairs.py"),
    ("grey or colour by the first", "data_pairs.py", "        if colour in count:", "        if False:", "test_pairs.py"),
    ("a wild row sets the scale", "data_latents.py", "    if size.max() > OUTLIER * typical:", "    if False:", "test_data.py"),
    ("rows of zeros are targets", "data_latents.py", "    return size == 0\n", "    return size < 0\n", "test_data.py"),
    ("mean of samples is one", "bridge_scores.py", "return total / n", "return sample", "test_evaluate_bridge.py"),
    ("basic keeps InfoNCE", "tables/lddbm.py", 'loss="rec", w_nce=0.0, data_space=False', 'loss="rec", data_space=False', "test_evaluate_bridge.py"),
    ("theory: radius without its cross term", "theory/lemma1_inequality.py", "2 * top * one + one**2", "top * one + one**2", "test_lemma1.py"),
    ("theory: ridge without N", "theory/lemma1_least_squares.py", "lam * N * np.eye(h1)", "lam * np.eye(h1)", "test_lemma1.py"),
    ("theory: slope with the mean left in", "theory/lemma1.py", "dm = m - m.mean(0)\n    db = best - best.mean(0)", "dm = m\n    db = best", "test_lemma1.py"),
    ("theory: the bias adds no dimension", "theory/lemma1_least_squares.py", "np.linalg.svd(m, full", "np.linalg.svd(m - m.mean(0), full", "test_lemma1.py"),
    ("theory: F pushed the wrong way", "theory/lemma1_joint_training.py", "        F = unit(mu - m)", "        F = unit(m - mu)", "test_lemma1.py"),
    ("theory: residual not rooted", "theory/proposition1_formulas.py", "np.sqrt(np.subtract(1, s))", "np.subtract(1, s)", "test_proposition1.py"),
    ("theory: beta along |cM|", "theory/proposition1_formulas.py", "along * c1", "a * c1", "test_proposition1.py"),
    ("theory: DKW without its 2", "theory/proposition1_at_least.py", "np.multiply(2, n)", "n", "test_proposition1.py"),
    ("theory: bound from dependent pairs", "theory/proposition1.py", "g.cos[held.independent]", "g.cos", "test_proposition1.py"),
    ("theory: n_eff by a sample's own F", "theory/proposition1.py", "beside(other_F, u)", "beside(F, u)", "test_proposition1.py"),
    ("theory: printed with the right dimension", "theory/proposition1_formulas.py", "np.add(h2, 1)", "h2", "test_proposition1.py"),
    ("theory: a lost from the denominator", "theory/gamma_four_numbers.py", "2 * a * gamma * kappa", "2 * gamma * kappa", "test_gamma.py"),
    ("theory: break-even inf too often", "theory/gamma_four_numbers.py", "beyond = np.where(q >= c1, np.inf, 0.0)", "beyond = np.where(q > 0, np.inf, 0.0)", "test_gamma.py"),
    ("theory: K samples without R^2", "theory/gamma_samples.py", "(1 - R**2) / (K * R**2)", "(1 - R**2) / (K * R)", "test_gamma.py"),
    ("theory: whole batch is rows", "theory/gamma_table7.py", "return x / np.linalg.norm(x)\n", "return x / np.linalg.norm(x, axis=1, keepdims=True)\n", "test_gamma.py"),
    ("theory: kappa's ends without q", "theory/gamma_table7.py", "half = np.sqrt((1 - c1**2) * (1 - q**2))", "half = np.sqrt(1 - c1**2)", "test_gamma.py"),
    ("theory: noise shrunk twice", "theory/gamma_samples.py", "B = np.sqrt(v) * shrunk", "B = np.sqrt(v) * shrunk**2", "test_gamma.py"),
    ("theory: printed and DDIM swapped", "theory/sampling_ddim.py", "kept = 1 - (t if printed else s)", "kept = 1 - (s if printed else t)", "test_sampling.py"),
    ("theory: h-transform without r", "theory/sampling_bridge.py", "h = r * (z_T - r * z)", "h = (z_T - r * z)", "test_sampling.py"),
    ("theory: beta scaled the other way", "theory/sampling_ddim.py", "(1000 / T if scaled else 1)", "(T / 1000 if scaled else 1)", "test_sampling.py"),
    ("theory: spread over the wrong axis", "theory/sampling.py", "(many.var(0).mean() / true)", "(many.var(1).mean() / true)", "test_sampling.py"),
    ("BLEU sums references", "metrics.py", "most |= ngrams(ref, k + 1)", "most += ngrams(ref, k + 1)", "test_metrics.py"),
    ("ROUGE-L recall of the longest match", "metrics.py", "R = max(recalls)", "R = max(common) / max(1, len(refs[common.index(max(common))]))", "test_metrics.py"),
    ("IS against all rows", "metrics.py", "np.divide(part, part.mean(0), out", "np.divide(part, p.mean(0), out", "test_metrics.py"),
    ("caption loss counts padding", "tables/captioning.py", "return fn.cross_entropy(logits[mask], ids[mask])", "return fn.cross_entropy(logits.flatten(0, 1), ids.flatten())", "test_decoders.py"),
    ("CapDec's noise is a variance", "tables/captioning.py", "z + noise * eps", "z + noise**0.5 * eps", "test_decoders.py"),
    ("captions never end", "tables/captioning.py", "[*row, self.eos][:MAX_TOKENS]", "[*row][:MAX_TOKENS]", "test_decoders.py"),
    ("caption and latent swapped", "tables/captioning.py", "i, j = rows[chosen]", "j, i = rows[chosen]", "test_decoders.py"),
    ("CLIP reads another caption", "tables/small_clip.py", "i, j = split.pairs[row]", "j, i = split.pairs[row]", "test_small_clip.py"),
    ("CLIP without its scale", "tables/small_clip.py", "clip_loss(u, v, model.logit_scale.exp())", "clip_loss(u, v, model.logit_scale)", "test_small_clip.py"),
    ("unpaired counts pairs", "tables/small_clip.py", "cosines[~same].mean()", "cosines.mean()", "test_small_clip.py"),
    ("gap between pairs", "tables/small_clip.py", "(x.mean(0) - image.mean(0)).norm().item()", "(x - image).norm(dim=1).mean().item()", "test_downstream.py"),
    ("nearest among bare captions", "evaluate.py", "rows = self.training.full[fixed_sample(len(self.training.full), MOST_PAIRS)]", "rows = np.arange(len(self.training.pairs))", "test_downstream.py"),
    ("captions of one photo are unrelated", "scores.py", "return part_of_node[q]", "return np.arange(len(q))", "test_evaluate.py"),
    ("only one right answer counts", "scores.py", "self.right.setdefault(n, []).append(item)", "self.right[n] = [item]", "test_evaluate.py"),
    ("solids are seen from behind", "pictures.py", "distance = solid.argmax(2)", "distance = solid[:, :, ::-1].argmax(2)", "test_evaluate_bridge.py"),
    ("as-released at gamma = 1 always", "tables/released.py", "both = cM + run.gamma[direction] * F", "both = cM + F", "test_released_table.py"),
    ("as-released: another constant", "evaluate.py", "CONSTANT[n]", "CONSTANT[1 - n]", "test_released_table.py"),
    ("Table 3's columns swapped", "tables/encoder_pairs.py", 'mine = [r for r in rows if r["direction"] == direction]', 'mine = [r for r in rows if r["direction"] == DIRECTIONS[1 - n]]', "test_downstream.py"),
    ("other data overwrite the run's", "evaluate.py", 'return f"{task} {self.on}" if self.other else task', "return task", "test_layouts.py"),
    ("graded: guidance of three columns", DDIM, "out = guide(e_c, e_0, omega)", "out = torch.cat([guide(e_c, e_0, omega)[:, :3], e_c[:, 3:]], 1)", TRANSLATOR),
    ("graded: gamma* without |cM|", CLOSED, "return (a * up / down", "return (up / down", TRANSLATOR),
    ("graded: gamma* below 0", CLOSED, "(q - c1 * kappa).clamp(min=0)", "q - c1 * kappa", TRANSLATOR),
    ("graded: frozen for ever", BRIDGE, "requires_grad_(denoiser_moves if in_denoiser else others_move)", "requires_grad_(parameter.requires_grad and (denoiser_moves if in_denoiser else others_move))", ORACLES),
    ("graded: eta squared", BRIDGE, "fresh = eta * (std_s**2", "fresh = eta**2 * (std_s**2", ORACLES),
    ("graded: fresh^2 not subtracted", BRIDGE, "kept = (std_s**2 - fresh**2).clamp(min=0).sqrt()", "kept = std_s", ORACLES),
    ("graded: z_T lost at the boot", BRIDGE, "z_t = a_s * z_T + b_s * z0_hat + std_s * randn", "z_t = b_s * z0_hat + std_s * randn", ORACLES),
    ("graded: unit tokens", BRIDGE, "v = fn.normalize(z_T.flatten(1), dim=1)", "v = fn.normalize(z_T, dim=2).flatten(1)", ORACLES),
    ("graded: answers of the first chunk", "metrics.py", "for n, s in enumerate(similarity, start):", "for n, s in enumerate(similarity):", "test_evaluate.py"),
    ("class: a loop is waited for", "tests/submissions.py", "now - first > seconds + GRACE + MORE", "now - first > 99", "test_scoreboard.py"),
    ("class: children live on", "tests/submissions.py", "os.killpg(process.pid, signal.SIGKILL)", "os.kill(process.pid, signal.SIGKILL)", "test_scoreboard.py"),
    ("class: no result is an answer", "tests/submissions.py", "result = {\"why\": why, ", "result = {\"why\": \"\", ", "test_scoreboard.py"),
    ("class: baselines may be opened", "tests/submissions.py", 'self.refuse(f"opens the reference', 'self.tell(f"opens the reference', "test_scoreboard.py"),
    ("class: files may be written", "tests/submissions.py", 'self.refuse(f"changes {path}")', 'self.tell(f"changes {path}")', "test_scoreboard.py"),
    ("class: files may be removed", "tests/submissions.py", '("open", *self.REMOVED)', '("open",)', "test_scoreboard.py"),
    ("class: who changes the copy counts", "tests/submissions.py", "        other = changed(reference, sources(copy))", "        other = []", "test_scoreboard.py"),
    ("class: memory without end", "tests/submissions.py", "    limit_memory(float(gigabytes))\n", "", "test_scoreboard.py"),
    ("class: method files in silence", "tests/submissions.py", """            self.tell(f"uses the reference's {name}")""", "            pass", "test_scoreboard.py"),
    ("class: the worst first", "tests/scoreboard.py", "rows.sort(key=place, reverse=True)", "rows.sort(key=place)", "test_scoreboard.py"),
    ("class: status 0 without a score", "tests/scoreboard.py", "not stubs and None in rows[0]", "not stubs and None is rows[0]", "test_scoreboard.py"),
    ("class: one direction is enough", "tests/scoreboard.py", "return None if None in cosines else", "cosines = [x for x in cosines if x is not None]; return", "test_scoreboard.py"),
    ("class: tests of other exercises count", "tests/submissions.py", "if graded(item) & self.names]", "if True]", "test_scoreboard.py"),
    ("class: failures pass", "tests/submissions.py", 'report.when == "call" and report.passed', 'report.when == "call"', "test_scoreboard.py"),
    ("class: a spreadsheet computes names", "tests/scoreboard.py", """re.sub(r"^(?=[=+@-])(?!-?$)", "'", str(x))""", "str(x)", "test_scoreboard.py"),
    ("class: a file that has nothing is run", "tests/scoreboard.py", "return bool(found & {*names, \"*\"})", "return True", "test_scoreboard.py"),
    ("graded: the reference answers for you", "tests/conftest.py", "            forbid(old, short, monkeypatch)\n", "", "test_scoreboard.py"),
    ("ridge loses: by its penalty", "tests/test_ridge_loses.py", "if squares > ridge + 0.02:", "if False:", "test_ridge_loses.py"),
    ("ridge loses: on other distributions", "tests/test_ridge_loses.py", "off.abs().max() > 6 or", "False and", "test_ridge_loses.py"),
    ("ridge loses: by a few rows", "tests/test_ridge_loses.py", "        if far > 6:", "        if far > 60:", "test_ridge_loses.py"),
    ("ridge loses: to anything", "tests/test_ridge_loses.py", "if best < ridge + 0.2:", "if best < ridge - 2:", "test_ridge_loses.py"),
    ("ridge loses: and sees nothing", "tests/test_ridge_loses.py", "    if ridge < 0.1:", "    if ridge < -1:", "test_ridge_loses.py"),
    ("ridge loses: to what nobody learns", "tests/test_ridge_loses.py", "if knn < ridge + 0.1:", "if knn < ridge - 9:", "test_ridge_loses.py"),
    ("ridge loses: z a function of c", "tests/test_ridge_loses.py", "    if best > 0.9:", "    if best > 1.9:", "test_ridge_loses.py"),
    ("ridge loses: any best answer", "tests/test_ridge_loses.py", "        if t.abs().max() > 6:", "        if t.abs().max() > 1e9:", "test_ridge_loses.py"),
    ("ridge loses: any promise", "tests/test_ridge_loses.py", "if not abs(number - true) <= 0.03:", "if not abs(number - true) <= 3:", "test_ridge_loses.py"),
    ("ridge loses: R2 without the mean", "tests/test_ridge_loses.py", "(z - z.mean(0)).square().sum()).item()", "(z + 1).square().sum()).item()", "test_ridge_loses.py"),
    ("teaching: a lecture of 95 minutes", "assignments/TEACHING.md", "| 5 | samples against means |", "| 10 | samples against means |", "test_teaching.py"),
    ("teaching: a function that is gone", "assignments/TEACHING.md", "`ridge`, `gamma_star`;", "`ridge`, `gamma_best`;", "test_teaching.py"),
    ("teaching: other minutes than the exercise", "assignments/TEACHING.md", "(ex06_collapse.py) (60)", "(ex06_collapse.py) (45)", "test_teaching.py"),
    ("teaching: points off the rule", "assignments/TEACHING.md", "| 10 | 7 + 3 | order 1", "| 10 | 6 + 3 | order 1", "test_teaching.py"),
    ("teaching: a flag that is gone", "assignments/TEACHING.md", "--task ablation --seeds 1", "--task ablation --seed 1", "test_teaching.py"),
    ("report: a placeholder without its command", "assignments/report.md", "[figure: RUN/loss.png, by `python train.py`]", "[figure: RUN/loss.png]", "test_teaching.py"),
    ("report: a picture that nobody draws", "assignments/report.md", "RUN/trade-off.png", "RUN/tradeoff.png", "test_teaching.py"),
    ("errata: a test that is gone", "PAPERS.md", "| `test_eq11` |", "| `test_eq12` |", "test_teaching.py"),
    ("errata: in any order", "PAPERS.md", "| 2026-11-28 | `--gamma auto`", "| 2026-12-28 | `--gamma auto`", "test_teaching.py"),
    ("graded: over time counts", "tests/scoreboard.py", "used > seconds + GRACE", "used > 9 * seconds", "test_scoreboard.py"),
    ("graded: the better direction alone", "tests/scoreboard.py", "else sum(cosines) / len(cosines)", "else max(cosines)", "test_scoreboard.py"),
    ("graded: tests may look at names", "tests/test_find_the_bug.py", "test(lambda *args, **kw: f(*args, **kw))", "test(f)", "test_find_the_bug.py"),
    ("16-bit grey shifted by eight", "data_files.py", "np.rint(x / 257)", "np.floor(x / 257)", "test_data.py"),
    ("a photo turned the other way", "data_files.py", "    6: Image.Transpose.ROTATE_270,", "    6: Image.Transpose.ROTATE_90,", "test_data.py"),
    ("transparent pixels on black", "data_files.py", 'image.size, "white")', 'image.size, "black")', "test_data.py"),
    ("floats over 1 are cut", "data_files.py", "if not (x.min() >= 0 and x.max() <= 1):", "if not x.min() >= 0:", "test_data.py"),
    ("the first photo decides about colour", "data_files.py", '                return "RGB"\n', '                return "RGB"\n            return "L"\n', "test_data.py"),
    ("quotes of a caption are lost", "data_tables.py", '"strict": True', '"strict": False', "test_captions.py"),
    ("a quote swallows the next rows", "data_tables.py", "if fields is None or pictures > 1:", "if fields is None:", "test_captions.py"),
    ("lines split at U+2028", "data_tables.py", 'lines = text.replace("\\r\\n", "\\n").replace("\\r", "\\n").split("\\n")', "lines = text.splitlines()", "test_captions.py"),
    ("2,000 people lose their 2", "data_tables.py", "if fields is None or len(fields) > layout.width:", "if fields is None:", "test_captions.py"),
    ("a table leaves its folder", "data_captions.py", 'if path.split(os.sep)[0] == "..":', 'if path == "..":', "test_captions.py"),
    ("missing photos are dropped", "data_captions.py", "if len(missing) + len(unread) > MAY_BE_MISSING * len(files) and not partial:", "if len(missing) > len(files) and not partial:", "test_captions.py"),
    ("one of two photos is guessed", "data_captions.py", "if len(like) == 1 else None", "if like else None", "test_captions.py"),
    ("two years of COCO", "data.py", "both = [year for year in train if year in val]", "both = train", "test_data.py"),
    ("--partial reaches no loader", "runs.py", '        return {"allow_train": args.celeba_train} | partial', '        return {"allow_train": args.celeba_train}', "test_captions.py"),
    ("wiring: gamma on training pairs", "train.py", "Learner(d, found.train, found.val, args", "Learner(d, found.train, found.train, args", WIRING),
    ("wiring: gamma of the raw weights", "train.py", "translator = self.ema.module.eval()", "translator = self.net.eval()", WIRING),
    ("wiring: gamma measured with dropout", "train.py", "translator = self.ema.module.eval()", "translator = self.ema.module", WIRING),
    ("wiring: one gamma for both directions", "runs.py", '{d: saved["learners"][d]["gamma"] for d in DIRECTIONS}', '{d: saved["learners"][DIRECTIONS[0]]["gamma"] for d in DIRECTIONS}', WIRING),
    ("wiring: tables on validation pairs", "evaluate.py", 'run.latents("test", self.on', 'run.latents("val", self.on', WIRING),
    ("wiring: lambda on test pairs", "evaluate.py", 'run.latents("val", None, home)', 'run.latents("test", None, home)', WIRING),
    ("wiring: lambda on training pairs", "baselines.py", "ridge(latents.chunks(direction), c_val, z_val, prepared)", "ridge(latents.chunks(direction), c, z, prepared)", WIRING),
    ("wiring: baselines on validation pairs", "evaluate.py", 'run.latents("train", None, home)', 'run.latents("val", None, home)', WIRING),
    ("wiring: the bridge's table on validation pairs", "evaluate_bridge.py", '("train", "val", "test"))', '("train", "test", "val"))', WIRING),
    ("wiring: FID's PCA on test items", "bridge_scores.py", 'self.run.pairs("train", self.direction)', 'self.run.pairs("test", self.direction)', WIRING),
    ("wiring: encoders fitted on validation items", "runs.py", 'load_encoders(args, device, splits["train"])', 'load_encoders(args, device, splits["val"])', WIRING),
    ("wiring: scales of the validation pairs", "train.py", "Learner(d, found.train, found.val, args", "Learner(d, found.val, found.val, args", WIRING),
    ("wiring: curves on test pairs", "pictures.py", "evaluation.validation.of(direction, rows[::k])", "evaluation.latents.of(direction, evaluation.latents.full[::k])", WIRING),
    ("wiring: the mlp answers with dropout", "baselines.py", "        self.ema.eval()\n", "", WIRING),
    ("wiring: evaluated with dropout", "runs.py", "return net.eval().to(self.device)", "return net.to(self.device)", WIRING),
    ("wiring: unscaled after clipping", "train.py", "    learner.scaler.unscale_(learner.optimizer)\n    norm = torch.nn.utils.clip_grad_norm_(learner.trained, args.clip)\n", "    norm = torch.nn.utils.clip_grad_norm_(learner.trained, args.clip)\n    learner.scaler.unscale_(learner.optimizer)\n", WIRING),
    ("wiring: the bridge clips scaled gradients", "train_bridge.py", "    learner.scaler.unscale_(optimizer)\n", "", WIRING),
    ("wiring: scaler.update forgotten", "train.py", "    learner.scaler.update()\n", "", WIRING),
    ("wiring: the bridge's zero_grad forgotten", "train_bridge.py", "    net.zero_grad(set_to_none=True)\n", "", WIRING),
    ("wiring: the mlp's zero_grad forgotten", "baselines.py", "        optimizer.zero_grad(set_to_none=True)\n", "", WIRING),
    ("wiring: averaged before the step", "train.py", "    learner.scaler.step(learner.optimizer)\n    learner.scaler.update()\n\n    learner.ema.update_parameters(learner.net)\n", "    learner.ema.update_parameters(learner.net)\n    learner.scaler.step(learner.optimizer)\n    learner.scaler.update()\n", WIRING),
    ("wiring: averaged in one side's turns", "train_bridge.py", "    learner.ema.update_parameters(net)\n", "    if bridge_moves:\n        learner.ema.update_parameters(net)\n", WIRING),
    ("wiring: resume forgets the scaler", "train.py", '            self.scaler.load_state_dict(state["scaler"])', "            pass", WIRING),
    ("wiring: one side's optimiser comes back", "train_bridge.py", "        for side, optimizer in self.optimizers.items():\n            optimizer.load", "        for side, optimizer in [*self.optimizers.items()][:1]:\n            optimizer.load", WIRING),
    ("wiring: the denoiser at the encoders' rate", "train_bridge.py", '"bridge", args.lr * decay_at', '"bridge", args.lr_modality * decay_at', WIRING),
    ("wiring: the wrong half is frozen", BRIDGE, "denoiser_moves if in_denoiser else others_move", "others_move if in_denoiser else denoiser_moves", WIRING),
    ("wiring: the norm of one side", "train_bridge.py", "torch.hypot(*norms)", "norms[-1]", WIRING),
    ("wiring: residuals not scaled", DDIM, "(z_scaled - self.centre(c_scaled)) * self.r_scale", "(z_scaled - self.centre(c_scaled))", WIRING),
    ("wiring: None among the gradients", "train.py", "[p for p in learner.trained if p.grad is not None]", "learner.trained", WIRING),
    ("wiring: one coin for all rows", DDIM, "torch.rand(B, generator=generator) >= p", "torch.rand(1, generator=generator).expand(B) >= p", WIRING),
    ("wiring: one bridge noise for all rows", BRIDGE, "torch.randn(B, N, D, generator=generator)", "torch.randn(1, N, D, generator=generator).expand(B, N, D)", WIRING),
    ("wiring: one start for K samples", DDIM, "start = randn((K * len(c), self.h2), device=c.device)", "start = randn((len(c), self.h2), device=c.device).repeat(K, 1)", WIRING),
    ("wiring: a mask of the first row", DDIM, "torch.where(keep[:, None], c", "torch.where(keep[:1, None], c", WIRING),
    ("wiring: directions share their seeds", "runs.py", "(2 * seed + backwards) * 1", "(2 * seed) * 1", WIRING),
    ("wiring: one dropout mask for the run", "train.py", "torch.manual_seed(args.seed * 1_000_003 + step * world + rank)", "torch.manual_seed(args.seed * 1_000_003 + rank)", WIRING),
    ("wiring: a sample beside its own truth", "bridge_scores.py", "made[: 2 * half : 2], true[1::2]", "made[1::2], true[1::2]", WIRING),
    ("wiring: gamma of the first pairs", "train.py", "self.validation.of(self.direction, full[::k])", "self.validation.of(self.direction, full[:limit])", WIRING),
    ("wiring: the translator's rate stands still", "train.py", 'group["lr"] = learning_rate(step, args)', 'group["lr"] = args.lr', WIRING),
    ("wiring: always the same turn", "train_bridge.py", "draw_batch(learner, step, mine), step, world)", "draw_batch(learner, step, mine), 0, world)", WIRING),
    ("two runs write one cache", "latents.py", 'with Lock(stem + ".lock", f"{stem}.npy is being written by another run", wait=True):', "with contextlib.nullcontext():", "test_latents.py"),
    ("who waited encodes again", "latents.py", "            found = open_cache(stem, meta)\n            if not found:", "            if not found:", "test_latents.py"),
    ("a complete cache needs a lock", "latents.py", "    if found:\n        return found\n    try:", "    try:", "test_latents.py"),
    ("NaN in a cache is believed", "latents.py", "if ours and intact and all_finite(z):", "if ours and intact:", "test_latents.py"),
    ("a file of a disk that is full stays", "latents.py", "            os.remove(part)\n        raise", "            pass\n        raise", "test_latents.py"),
    ("rows renamed before their record", "latents.py", '        Path(record).write_text(json.dumps({"meta": meta, "broken": broken, "crc32": crc}))\n        os.replace(stem + ".part", stem + ".npy")', '        os.replace(stem + ".part", stem + ".npy")\n        Path(record).write_text(json.dumps({"meta": meta, "broken": broken, "crc32": crc}))', "test_latents.py"),
    ("Hindi without its vowels", "metrics.py", 'RUN = f"{LETTER}+(?:[{MARKS}]+{LETTER}*)*"', 'RUN = f"{LETTER}+"', "test_encoders.py"),
    ("BLEU of Chinese clauses", "metrics.py", '    rf"|{CHARACTER}"\n', "", "test_metrics.py"),
    ("a Chinese clause is a term", "encoders.py", "token_pattern=WORD,", 'token_pattern=r"\\b\\w+\\b",', "test_encoders.py"),
    ("grey decided by the first photo", "encoders.py", "colour_of(images, fixed_sample(len(images), 1000))", "colour_of(images, [0])", "test_encoders.py"),
    ("vectors reach PCA", "encoders.py", 'if isinstance(item, np.ndarray) and spec != "none":', "if False:", "test_encoders.py"),
    ("a small set in silence", "encoders.py", "    if dim is None and most < default:\n", "    if False:\n", "test_encoders.py"),
    ("RoBERTa counts from 0", "pretrained.py", "positions = layer.num_embeddings - padding - 1", "positions = layer.num_embeddings", "test_pretrained.py"),
    ("pictures of all sizes in one batch", "pretrained.py", 'rows_of.setdefault(getattr(x, "shape", None), [])', "rows_of.setdefault(None, [])", "test_pretrained.py"),
    ("CLIP's hidden state for its features", "pretrained.py", 'pooling = pooling or ("features" if features else default)', "pooling = pooling or default", "test_pretrained.py"),
    ("SigLIP padded to the batch", "pretrained.py", 'padding = "max_length" if full else True', "padding = True", "test_pretrained.py"),
    ("clip.part is taken for ours", "tables/small_clip.py", 'part = os.path.join(own, "clip")', 'part = out + ".part"', "test_small_clip.py"),
    ("constants are trained on", "runs.py", "if (items == items[0]).all():", "if (items != items).all():", "test_small_sets.py"),
    ("the outlier hides in the mean", "runs.py", "apart = (x - x.median(0).values)", "apart = (x - x.mean(0))", "test_small_sets.py"),
    ("latents are not checked", "train.py", "        check_trainable(found.train, direction)", "        check_trainable", "test_small_sets.py"),
    ("somebody else is always there", "scores.py", "if (self.group != self.group[0]).any():", "if len(self.group):", "test_small_sets.py"),
    ("a gallery of one is ranked", "scores.py", "if len(self.pool) > 1:", "if len(self.pool) > 0:", "test_small_sets.py"),
    ("the second evaluation does not wait", "scores.py", 'with Lock(os.path.join(folder, ".evaluate.lock"), told, wait=True):', "with contextlib.nullcontext():", "test_small_sets.py"),
    ("FID of one item", "bridge_scores.py", "if self.N > 1:", "if self.N > 0:", "test_small_sets.py"),
    ("--steps 0 is no steps", "tables/encoder_pairs.py", "    evaluate.check_flags(parser, args)", "    evaluate.check_flags", "test_small_sets.py"),
    ("together: one translator alone", "metrics.py", "return there.add_(back)", "return there", "test_metrics.py"),
    ("together: hubs without tau", "metrics.py", "(tau * torch.cat(hubs)).float()", "torch.cat(hubs).float()", "test_metrics.py"),
    ("together: a matrix is ranked in place", "metrics.py", "    s = s.clone()  # the caller's row stays as it is\n", "", "test_metrics.py"),
    ("together: hubs of answerable queries", "scores.py", '"hubs out": metrics.hubs_out(s, TAU)}\n        findable, right = self.findable()\n', '"hubs out": s.clone()}\n        findable, right = self.findable()\n        similarities["hubs out"][findable] = metrics.hubs_out(s[findable], TAU)\n', "test_evaluate.py"),
    ("together: back by the same translator", "evaluate.py", "DIRECTIONS[1 - DIRECTIONS.index(direction)]", "direction", "test_evaluate.py"),
    ("together: seed 0 for all ways back", "scores.py", "zip(seeds, z_hats, c_hats, strict=False)", "zip(seeds, z_hats, c_hats[:1] * len(z_hats), strict=False)", "test_evaluate.py"),
    ("together: no cosine is a gap", "scores.py", "if column not in present]", "if any(column not in row for row in rows)]", "test_evaluate.py"),
    ("parts of a number as endings", "data_pairs.py", "[^-_.\\d/]+)?$", "[^-_./]+)?$", "test_pairs.py"),
    ("one folder for both sides", "data_pairs.py", "if os.path.samefile(source, target):", "if source is target:", "test_pairs.py"),
    ("HEIC stops a run late", "data_captions.py", "if file.lower().endswith(NOT_READ)]", "if file.endswith(NOT_READ)]", "test_captions.py"),
    ("--partial reaches no evaluation", "evaluate.py", "        run.partial = args.partial\n", "", "test_captions.py"),
    ("keys do not know the decoder", "data_captions.py", "file_stamps(sources), DECODER)", "file_stamps(sources))", "test_captions.py"),
    ("a run without a test set", "data_cc3m.py", "        return train, [0.99, 0.995]\n", "        return (test, []) if split == \"test\" else (train, [0.99])\n", "test_cc3m.py"),
    ("failed downloads are not told", "data_cc3m.py", "                    notes.add(key)\n", "                    pass\n", "test_cc3m.py"),
    ("equal rows in train and test", "data_latents.py", "        ids = first\n", "        ids = np.arange(len(a))\n", "test_data.py"),
    ("equal texts make groups", "data_latents.py", "    first = first_equal(a)\n", "    first = first_equal(b)\n", "test_data.py"),
    ("12 photos read 6,400 times", "tables/captioning.py", "min(MOST_STEPS, MOST_PASSES * n // batch)", "MOST_STEPS", "test_small_sets.py"),
    ("lambda in the units of c", CLOSED, "found.CC + lam * s * torch", "found.CC + lam * torch", CLOSED_FORM),
    ("a bias without c's mean", CLOSED, "return W, found.z_mean - found.c_mean @ W", "return W, found.z_mean", CLOSED_FORM),
    ("always the smallest lambda", CLOSED, "return max(LAMBDAS, key=score)", "return LAMBDAS[0]", CLOSED_FORM),
    ("variances in float32", CLOSED, "G = G + c_one.T @ torch.cat([c_one, z.double()], 1)", "G = G + (c_one.float().T @ torch.cat([c_one.float(), z], 1)).double()", CLOSED_FORM),
    ("gamma = 0 is no choice", CLOSED, "max([0.0, *grid.tolist()], key=score)", "max(grid.tolist(), key=score)", CLOSED_FORM),
    ("|F| = 1 is taken for granted", CLOSED, "return (a * up / down / F.norm(dim=1).mean())", "return (a * up / down)", CLOSED_FORM),
    ("the input does not fade", DDIM, "self.net(self.alpha[t][:, None].sqrt() * z_t, t", "self.net(z_t, t", CLOSED_FORM),
    ("the input fades twice", DDIM, "self.net(self.alpha[t][:, None].sqrt() * z_t, t", "self.net(self.alpha[t][:, None] * z_t, t", CLOSED_FORM),
    ("F by h2, not its root", DDIM, "return z_0 / math.sqrt(self.h2)", "return z_0 / self.h2", TRANSLATOR),
    ("M is trained, too", DDIM, "self.M.requires_grad_(False)", "self.M.requires_grad_(True)", CLOSED_FORM),
    ("ridge of latents that are not prepared", "baselines.py", "found = moments((prepared(c), prepared(z)) for c, z in chunks)", "found = moments(chunks)", CLOSED_FORM),
    ("a length for z", "train.py", "(z * z_hat).sum() / z_hat.square().sum()", "(z * z_hat).sum() / z.square().sum()", CLOSED_FORM),
    ("the length is not used", "runs.py", "return self.length[direction] * z_hat", "return z_hat", CLOSED_FORM),
    ("a laptop gets 100,000 steps", "arguments.py", 'small = pairs < SMALL or device.type == "cpu"', "small = pairs < SMALL", CLOSED_FORM),
    ("steps that were typed are overruled", "arguments.py", "chosen = args.steps is None and small", "chosen = small", CLOSED_FORM),
    ("baselines see pairs that were cut", "runs.py", 'if split == "train" and name == args.dataset:', "if False:", CLOSED_FORM),
    ("the last checkpoint is kept", "train.py", 'if cosine > self.best["cosine"]:', "if True:", "test_train.py"),
    ("the best weights go on changing", "train.py", "v.detach().clone() for", "v.detach() for", "test_train.py"),
    ("resume forgets the best weights", "train.py", 'self.best = state["best"]', "pass", "test_train.py"),
    ("the best weights are not taken", "train.py", 'self.ema.module.load_state_dict(self.best["weights"])', "pass", "test_train.py"),
    ("the average begins slowly", "runs.py", "return min(args.ema, (1 + step) / (10 + step))", "return args.ema", "test_train.py"),
    ("rounds forget where they are", "checkpoints.py", "done - done % mark + mark for", "done + mark for", "test_train.py"),
    ("one thread for ever", "devices.py", "        torch.set_num_threads(before)", "        pass", "test_train.py"),
    ("the last item first", "devices.py", "pool.map(function, items)", "pool.map(function, items[::-1])", "test_train.py"),
    ("one after the other", "devices.py", "ThreadPoolExecutor(len(items))", "ThreadPoolExecutor(1)", "test_train.py"),
    ("two threads on a GPU", "devices.py", 'alone = device.type != "cpu" or', "alone =", "test_train.py"),
    ("two threads draw from one generator", "devices.py", "or random or dist", "or dist", "test_train.py"),
    ("threads beside processes", "devices.py", " or random or dist.is_initialized()", " or random", "test_train.py"),
    ("parts in the order of words", LATENT_FILES, "return [by_number[number] for number in numbers]", "return files", OWN_VECTORS),
    ("a missing part is passed over", LATENT_FILES, "for number in numbers if number not in by_number]", "for number in numbers if number < 0]", OWN_VECTORS),
    ("parts that were cut elsewhere", LATENT_FILES, "if not same_number or len(x) != len(y):", "if not same_number:", OWN_VECTORS),
    ("parts of other numbers", LATENT_FILES, "if not same_number or len(x) != len(y):", "if len(x) != len(y):", OWN_VECTORS),
    ("the first row of a part", LATENT_FILES, 'rows, side="right") - 1', 'rows, side="left") - 1', OWN_VECTORS),
    ("parts joined in memory", LATENT_FILES, "return (Parts(arrays) if", "return (np.concatenate(arrays) if", OWN_VECTORS),
    ("tensors unpickled", LATENT_FILES, "weights_only=True, mmap", "weights_only=False, mmap", OWN_VECTORS),
    ("one stamp for all parts", LATENT_FILES, "file_stamps(sum(files, []))", "file_stamps(paths)", OWN_VECTORS),
    ("an axis goes in silence", LATENT_FILES, 'say_once((os.path.dirname(path), "an axis of 1"), told)', "pass", OWN_VECTORS),
    ("new vectors with holes", "latents.py", "items.isfinite().flatten(1).all(1)", "items.isfinite().flatten(1).any(1)", OWN_VECTORS),
    ("vectors need an encoder", "runs.py", "encoders.width_of(self.states[m]) for m", "encoders.from_state(self.states[m]).dim for m", OWN_VECTORS),
    ("a bridge answers in its own units", "runs.py", "found.append(net.unscale(sum(samples) / K).cpu())", "found.append((sum(samples) / K).cpu())", OWN_VECTORS),
    ("one sample for the mean of K", "runs.py", "net.unscale(sum(samples) / K)", "net.unscale(samples[0])", OWN_VECTORS),
    ("pixels from 0 to 1 are black", "runs.py", "if net.y_mean == 127.5 and len(y)", "if net.y_mean < 0 and len(y)", OWN_VECTORS),
    ("a direction that is none", "runs.py", "    if direction not in run.dims:\n", "    if not direction:\n", OWN_VECTORS),
    ("bf16 is never chosen", "devices.py", 'return "bf16" if cpu_multiplies_bf16() else "off"', 'return "off"', "test_train.py"),
    ("bf16 where it is only converted", "devices.py", 'get("amx_bf16")', 'get("avx512_bf16")', "test_train.py"),
    ("released: each row's norm", RELEASED, "return z_0 / z_0.norm()", "return z_0 / z_0.norm(dim=1, keepdim=True)", AS_RELEASED),
    ("released: squared errors", RELEASED, "difference.abs().mean() if", "difference.square().mean() if", AS_RELEASED),
    ("released: M sees c without its mean", RELEASED, "c = c / self.c_scale + self.c_mean", "c = c / self.c_scale", AS_RELEASED),
    ("released: one number for all", RELEASED, "self.r_scale.copy_(z_var.rsqrt())", "self.r_scale.copy_(z_var.mean().rsqrt())", AS_RELEASED),
    ("released: Eq. 5 in z-scores", RELEASED, "self.z_scale.fill_(1.0)", "pass", AS_RELEASED),
    ("released: a sample guided by itself", RELEASED, "return guide(with_c, without, omega)", "return guide(with_c, with_c, omega)", AS_RELEASED),
    ("released: guided with its sign turned", RELEASED, "return guide(with_c, without, omega)", "return guide(without, with_c, omega)", AS_RELEASED),
    ("released: a coin for each row", RELEASED, "keep=kept.expand(len(c))", "keep=noise.keep", AS_RELEASED),
    ("released: L_recon without c", RELEASED, "lam1 = lam1 if kept else 0.0", "pass", AS_RELEASED),
    ("released: half of the rows stay at T", RELEASED, "t[::ROWS_AT_T] = noise.t[1::ROWS_AT_T]", "pass", AS_RELEASED),
    ("released: L_recon of half of the rows", RELEASED, "self.recon_rows = slice(None)", "pass", AS_RELEASED),
    ("released: phi is learned", RELEASED, "self.net.phi.requires_grad_(False)", "pass", AS_RELEASED),
    ("released: switches are not checked", "train.py", "    check_switches(args)\n\n", "\n", AS_RELEASED),
    ("released: processes drop their own slices", "train.py", "if whole and world > 1:", "if False:", AS_RELEASED),
    ("a preset overrules what was typed", "train.py", "        if getattr(args, name) is None:\n            setattr", "        if True:\n            setattr", AS_RELEASED),
    ("theory: F of ridge points at a residual", "theory/sampling.py", 'centre if net.objective == "residual" else 0', '0 if net.objective == "joint" else centre', "test_sampling.py"),
    ("samples in the lowest bytes", "sounds.py", "wide[:, 4 - width :] = bytes_of", "wide[:, :width] = bytes_of", SOUND),
    ("left alone is heard", "sounds.py", "return x.mean(1, dtype=np.float32), rate", "return x[:, 0], rate", SOUND),
    ("cut short in silence", "sounds.py", "    if len(raw) < n * channels * width:", "    if not raw:", SOUND),
    ("resampled louder", "sounds.py", "np.fft.irfft(spectrum, n) * (n / len(x))", "np.fft.irfft(spectrum, n)", SOUND),
    ("low pitches on top", "sounds.py", ".to(torch.uint8).flip(1)[:, None]", ".to(torch.uint8)[:, None]", SOUND),
    ("pieces half a window late", "sounds.py", "fn.pad(sound, (more // 2, more - more // 2))", "fn.pad(sound, (0, more))", SOUND),
    ("bands of equal hertz", "sounds.py", "return 2595 * torch.log10(1 + frequency / 700)", "return frequency + 0.0", SOUND),
    ("pieces without their weights", "sounds.py", "sound = added / fn.fold(weights, **place).clamp(min=1e-8)", "sound = added", SOUND),
    ("tones of equal steps in hertz", "glyph_sounds.py", "500 * 7 ** (torch.arange(31, -1, -1, dtype=torch.float64) / 31)", "500 + 3000 * (torch.arange(31, -1, -1, dtype=torch.float64) / 31)", SOUND),
    ("all glyphs have one phase", "glyph_sounds.py", 'int(digest("phases", name), 16)', 'int(digest("phases"), 16)', SOUND),
    ("a column half a column late", "glyph_sounds.py", "sound.flatten(1)[:, COLUMN // 2 : -(COLUMN // 2)]", "sound.flatten(1)[:, : 32 * COLUMN]", SOUND),
    ("energies are amplitudes", "glyph_sounds.py", "255 * squares.clamp(0, 1).sqrt()[:, None]", "255 * squares.clamp(0, 1)[:, None]", SOUND),
    ("a face of somebody else", "data_voxceleb.py", "face = faces[name][number % len(faces[name])]", "face = faces[max(faces)][0]", SOUND),
    ("split by clip", "data_voxceleb.py", "            persons.append(person)", "            persons.append(clip)", SOUND),
    ("two clips of a speaker compete", "data_voxceleb.py", "        if person not in seen:", "        if True:", SOUND),
    ("a sample is found by its mean", "bridge_sounds.py", "found = x_hat.flatten(1)[rows] - centre", "found = x_hat.flatten(1)[rows]", SOUND),
    ("rooms: cameras go anticlockwise", "glyph_rooms.py", "right = np.stack([-np.sin(yaw), np.cos(yaw)], axis=1)", "right = np.stack([np.sin(yaw), -np.cos(yaw)], axis=1)", "test_rooms.py"),
    ("rooms: rays through corners of pixels", "glyph_rooms.py", "np.arange(SIDE) + 0.5 - SIDE / 2", "np.arange(SIDE) - SIDE / 2", "test_rooms.py"),
    ("rooms: the last voxel of a ray", "glyph_rooms.py", "first = met[hit].argmax(1)", "first = met.shape[1] - 1 - met[hit, ::-1].argmax(1)", "test_rooms.py"),
    ("rooms: the face behind", "glyph_rooms.py", "normal = -np.sign(direction)", "normal = np.sign(direction)", "test_rooms.py"),
    ("rooms: the face by which a ray leaves", "glyph_rooms.py", "np.take_along_axis(bright, axes[:, :-1], axis=1)", "np.take_along_axis(bright, axes[:, 1:], axis=1)", "test_rooms.py"),
    ("rooms: the hull upside down", "glyph_rooms.py", "row = np.floor(SIDE / 2 - scale * up)", "row = np.floor(SIDE / 2 + scale * up)", "test_rooms.py"),
    ("rooms: the hull looks behind the camera", "glyph_rooms.py", "seen = (depth > 0) & (u >= 0)", "seen = (u >= 0)", "test_rooms.py"),
    ("rooms: letters may touch", "glyph_rooms.py", "free &= ~grown(cells)", "free &= ~cells", "test_rooms.py"),
    ("rooms: letters hang from the top", "glyph_rooms.py", "volume[cells, SHAPE[2] - h :] =", "volume[cells, :h] =", "test_rooms.py"),
    ("rooms: letters of any split", "glyph_rooms.py", "for code in codes[split_of_character(codes) == SPLITS[split]]]", "for code in codes]", "test_rooms.py"),
    ("rooms: all splits in the same places", "glyph_rooms.py", 'f"{split} {number}"', 'f"{number}"', "test_rooms.py"),
    ("rooms: the hull of solids", "bridge_scores.py", '"glyph-rooms": room_hull,', '"glyph-rooms": solid_hull,', "test_evaluate_bridge.py"),
    ("nuscenes: cameras of the alphabet", "data_nuscenes.py", "for channel in CAMERAS]\n        if not", "for channel in sorted(CAMERAS)]\n        if not", "test_nuscenes.py"),
    ("nuscenes: frames between samples", "data_nuscenes.py", 'return BETWEEN if row.get("is_key_frame") is False else row', "return row", "test_nuscenes.py"),
    ("nuscenes: the plan mirrored", "data_nuscenes.py", "transpose(1, 0, 2)[::-1, :, ::-1]", "transpose(1, 0, 2)[:, :, ::-1]", "test_nuscenes.py"),
    ("nuscenes: noise is occupied", "data_nuscenes.py", "rows[rows[:, 3] > 0, :3]", "rows[rows[:, 3] >= 0, :3]", "test_nuscenes.py"),
    ("nuscenes: split by sample", "data_nuscenes.py", "names.append(scene_of[token])", "names.append(token)", "test_nuscenes.py"),
    ("nuscenes: an old table is remembered", "data_nuscenes.py", "return tuple(file_stamps(", "return len(file_stamps(", "test_nuscenes.py"),
    ("six views in a thin strip", "pictures.py", "if len(x) == 6 else [x]", "if len(x) == 0 else [x]", "test_evaluate_bridge.py"),
    ("a cut begins anew", "fetch.py", "headers[\"Range\"] = f\"bytes={have}-\"", "headers[\"X-Range\"] = f\"bytes={have}-\"", FETCHING),
    ("a cut is the end", "fetch.py", "if size_of(part) < archive.size:\n        raise Cut", "if size_of(part) < 0:\n        raise Cut", FETCHING),
    ("tries without end", "fetch.py", "for n in range(TRIES):", "for n in range(99 * TRIES):", FETCHING),
    ("no Range: added to the part", "fetch.py", "open(part, \"ab\" if begin else \"wb\")", "open(part, \"ab\")", FETCHING),
    ("206 of another version", "fetch.py", "changed = begin and etag_of(part)", "changed = 0 and etag_of(part)", FETCHING),
    ("the version is not noted", "fetch.py", "            note_etag(part, answer)\n", "            pass\n", FETCHING),
    ("416 keeps the part", "fetch.py", "        if error.code == 416:\n            remove(part)\n", "        if error.code == 416:\n", FETCHING),
    ("a wrong size is downloaded", "fetch.py", "int(total) != archive.size:", "int(total) < 0:", FETCHING),
    ("more than its size", "fetch.py", "if begin > archive.size:", "if begin > 10 * archive.size:", FETCHING),
    ("a web page is a data set", "fetch.py", "headers.get_content_type() == \"text/html\"", "headers.get_content_type() == \"text/htm\"", FETCHING),
    ("no time limit", "fetch.py", "timeout=TIMEOUT", "timeout=None", FETCHING),
    ("a cut loses a block", "fetch.py", "answer.read1(BLOCK)", "answer.read(BLOCK)", FETCHING),
    ("checksums are not checked", "fetch.py", "if total.hexdigest() == archive.sha256:", "if total.hexdigest():", FETCHING),
    ("a damaged part is kept", "fetch.py", "    remove(path)\n    told = f\"{archive.name}: wrong checksum", "    told = f\"{archive.name}: wrong checksum", FETCHING),
    ("room for the archive alone", "fetch.py", "needed = unpacked + max(archive.size for archive in todo)", "needed = max(archive.size for archive in todo)", FETCHING),
    ("silence is a yes", "fetch.py", "not in (\"y\", \"yes\")", "not in (\"y\", \"yes\", \"\")", FETCHING),
    ("a script is asked", "fetch.py", "if not sys.stdin.isatty():", "if False:", FETCHING),
    ("half a set is shown", "fetch.py", "            get(archive, root)\n        place(archives, root)", "            get(archive, root)\n            place([archive], root)", FETCHING),
    ("two fetch at once", "fetch.py", "with Lock(os.path.join(root, WORK + \".lock\"), f\"another", "with Lock(os.path.join(root, WORK + f\".lock{os.getpid()}\"), f\"another", FETCHING),
    ("half a folder is a folder", "fetch.py", "if count < files:", "if count < 0:", FETCHING),
    ("hidden files count", "fetch.py", "sum(not entry.name.startswith(\".\") for", "sum(1 for", FETCHING),
    ("the reader's archive is removed", "fetch.py", "    if mine:\n        remove(path)", "    if path:\n        remove(path)", FETCHING),
    ("fetched twice after a kill", "fetch.py", "    if complete(archive, root, os.path.join(work, READY)):\n        return\n", "    if complete(archive, os.path.join(work, READY) + \"?\"):\n        return\n", FETCHING),
    ("somebody's file is replaced", "fetch.py", "if not os.path.exists(there):", "if not os.path.isdir(there):", FETCHING),
    ("what another set has begun goes", "fetch.py", "                os.rmdir(folder)", "                shutil.rmtree(folder)", FETCHING),
    ("a full disk is a traceback", "fetch.py", "not in (errno.ENOSPC, errno.EDQUOT)", "not in (errno.EDQUOT,)", FETCHING),
    ("a name leads out", "unpack.py", "or \"..\" in parts or", "or", FETCHING),
    ("an absolute name", "unpack.py", "if member.name.startswith(\"/\") or", "if", FETCHING),
    ("a name of Windows", "unpack.py", "for c in \"\\\\:\\0\")", "for c in \"\\0\")", FETCHING),
    ("unwanted names are not looked at", "unpack.py", "            check(path, member)\n            if member.kind == \"folder\" or not is_below(member.name, wanted):\n                continue\n", "            if member.kind == \"folder\" or not is_below(member.name, wanted):\n                continue\n            check(path, member)\n", FETCHING),
    ("links in a zip", "unpack.py", "kind = \"file\" if mode in (0, stat.S_IFREG) else", "kind = \"file\" if mode < 2**16 else", FETCHING),
    ("links in a tar", "unpack.py", "kind = \"file\" if info.isreg() else", "kind = \"file\" if info.isreg() or info.islnk() or info.issym() else", FETCHING),
    ("devices in a tar", "unpack.py", "if member.kind not in (\"file\", \"folder\"):", "if \"link\" not in member.kind and member.kind not in (\"file\", \"folder\"):", FETCHING),
    ("each file has all the room", "unpack.py", "left -= write(", "left - write(", FETCHING),
    ("a size is believed", "unpack.py", "if count > member.size:", "if count > 10**9:", FETCHING),
    ("a name twice", "unpack.py", "file = open(target, \"xb\")", "file = open(target, \"wb\")", FETCHING),
    ("half is left", "unpack.py", "    except BaseException:\n        shutil.rmtree(folder)\n", "    except BaseException:\n", FETCHING),
    ("all is unpacked", "unpack.py", "name.startswith(top + \"/\")", "name.startswith(top)", FETCHING),
    ("datasets before the variable", "data_files.py", "tops = (os.environ.get(\"MODALITY_DATA\"), \"datasets\")", "tops = (\"datasets\", os.environ.get(\"MODALITY_DATA\"))", FETCHING),
    ("a folder beside named files", "data_files.py", "if given or any((options or {}).get(option) for option in named):", "if given:", FETCHING),
    ("two folders for VoxCeleb", "data_files.py", "folder = SAME_FOLDER.get(name, name)", "folder = name", FETCHING),
    ("pairs are not looked for", "data_pairs.py", "    root = data_folder(name, root, options)\n", "", FETCHING),
    ("sets are not looked for", "data.py", "    root = data_folder(name, root, options)\n", "", FETCHING),
    ("the run forgets its folder", "arguments.py", "args.data_dir = data_folder(args.dataset, args.data_dir, vars(args))", "data_folder(args.dataset, args.data_dir, vars(args))", FETCHING),
    ("fetched without being asked", "data.py", "        raise no_folder(name, root)\n", "        from fetch import fetch\n\n        fetch(name, None, True)\n", FETCHING),
]  # fmt: skip


def load_libraries():
    """Import once what others wrote: each run of pytest then begins at once, and not after 6 s."""
    import matplotlib.backends.backend_agg  # noqa: F401
    import open_clip  # noqa: F401
    import scipy.linalg  # noqa: F401
    import scipy.ndimage  # noqa: F401
    import sklearn.cluster  # noqa: F401
    import sklearn.decomposition  # noqa: F401
    import sklearn.feature_extraction.text  # noqa: F401
    import torch._dynamo  # noqa: F401
    import torch.distributed.nn  # noqa: F401
    from transformers import GPT2LMHeadModel  # noqa: F401


def run_pytest(folder, tests):
    """In a forked process, which ends with pytest's exit code."""
    os.chdir(folder)
    sys.path[:] = [path for path in sys.path if not path.startswith(ROOT)]
    del sys.modules["processes"]  # the copy has its own
    # -x: one test that fails is enough. No traceback and no cache: nobody reads them.
    sys.exit(pytest.main(["-x", "-q", "--tb=no", "-p", "no:cacheprovider", f"tests/{tests}"]))


def survives(name, file, old, new, tests):
    """None if the planted bug is caught, else why it was not."""
    with open(os.path.join(ROOT, file)) as f:
        source = f.read()
    if source.count(old) != 1:
        return f"{file} holds {source.count(old)} times: {old!r}"
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, "copy")
        away = shutil.ignore_patterns(".git", "runs", "cache", "datasets", ".venv", ".*_cache")
        shutil.copytree(ROOT, copy, ignore=away)
        with open(os.path.join(copy, file), "w") as f:
            f.write(source.replace(old, new))
        code = processes.end(processes.start(lambda: run_pytest(copy, tests)), seconds=1200)
    # 1: a test failed. All else (5: no test was found) says nothing about the bug.
    return None if code == 1 else f"{tests} did not notice (pytest: {code})"


def parse(argv):
    parser = argparse.ArgumentParser(description="planted bugs that the suite must catch")
    parser.add_argument("word", nargs="?", default="", help="only those whose name contains it")
    parser.add_argument("--tests", help="only those that this file must catch: test_train.py")
    parser.add_argument("--file", help="only those planted in this file: train.py")
    return parser.parse_args(argv)


def main(argv=()):
    """Plant what the arguments choose, one after the other. -> the names of those not caught."""
    args = parse(argv)
    chosen = [m for m in MUTANTS if args.word in m[0]]
    chosen = [m for m in chosen if args.tests in (None, m[4]) and args.file in (None, m[1])]
    load_libraries()
    alive = []
    for name, *planted in chosen:
        began = time.time()
        problem = survives(name, *planted)
        told = f"ALIVE   {name}: {problem}" if problem else f"caught  {name}"
        print(f"{told}  ({time.time() - began:.0f} s)", flush=True)
        alive += [name] if problem else []
    print(f"{len(chosen) - len(alive)} of {len(chosen)} caught")
    print("".join(f"not caught: {name}\n" for name in alive), end="")
    return alive


if __name__ == "__main__":
    sys.exit(bool(main(sys.argv[1:])))
