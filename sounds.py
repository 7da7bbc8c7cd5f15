"""
sounds.py: a .wav file as a picture, and a picture as a .wav file again.

A second of speech is 16,000 numbers in a row. Networks for pictures can read them all the same, for
a sound has two axes: WHEN something is heard, and how HIGH. Cut into short pieces, each with its
Fourier transform, it becomes a picture: time from left to right, pitch from the bottom to the top,
and bright where it is loud. That is what the bridge is given, and what it paints:

    sound (B, n) in [-1, 1]  --  log_mel  -->  picture (B, 1, S, S) uint8
                             <--  listen  --

    piece      frame k is the W samples around time (k + 1/2) hop, times a Hann window w
    spectrum   X[k, f] = sum_n w[n] piece[n] exp(-2 pi i f n / W), f = 0 ... W/2
    energy     P[k, f] = 4 |X[k, f]|^2 / (W sum_n w[n]^2): over all f a tone of amplitude 1 has 1
    mel        E[b, k] = sum_f M[b, f] P[k, f], where M are S triangles, as far from each other as
               pitches of equal step seem to the ear: mel(f) = 2595 log10(1 + f / 700)
    decibel    picture = 255 (1 + 10 log10(E) / 80), cut to 0 ... 255: from -80 dB to 0 dB

The way back is no inverse: the phases are lost, and so is what a triangle mixes. M's pseudo-inverse
gives a P that has these energies, and Griffin and Lim (1984) find phases that fit: take any, make
the sound, look at ITS phases, keep them with the magnitudes that are wanted; and again.

A network has one input shape, so all sounds are made equally long: of a longer one the beginning is
seen, a shorter one ends in silence. Other rates are resampled to that of the picture.

Map      Mel                    what a picture shows: rate, seconds, side
         read_wav, write_wav    8, 16, 24 and 32 bit PCM -> (n,); (n,) -> 16 bit
         resample, fit_length   another rate, another length
         log_mel, listen        sound -> picture -> sound
         read_sound             a file -> its picture, as the loaders want it
Letters  B sounds   n samples of a sound   S side of the picture   W samples of a window
Try      python sounds.py a.wav b.wav   what a picture leaves of a sound: b.wav is made of it
"""

import argparse
import functools
import io
import os
import wave
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as fn

from data_files import say_once
from errors import DataError, run_script
from safe_files import whole

DECIBELS = 80  # below the loudest: an ear in a quiet room hears about 80 dB of a voice
PLAIN = "save it as PCM: ffmpeg -i old.wav -c:a pcm_s16le new.wav"


class Mel(NamedTuple):
    """What a picture of a sound shows. The defaults are for speech: 2.56 s, and up to 8 kHz.

    hop, window: 320 and 1024 samples there, 20 and 64 ms. A window is as long as two hops at least,
    for no sound may fall between two pieces; and as `least`: one of 64 ms tells frequencies apart
    that differ by 1 / 64 ms = 16 Hz, a shorter one would leave the lowest triangles empty."""

    rate: int = 16_000  # samples a second
    seconds: float = 2.56
    side: int = 128  # mel bands, and pieces
    low: float = 50.0  # Hz, where the lowest triangle begins; the highest one ends at rate / 2
    least: int = 1024  # samples of a window, a power of 2, for the Fourier transform

    @property
    def hop(self):
        return max(1, round(self.rate * self.seconds / self.side))

    @property
    def window(self):
        return max(self.least, 2 ** (2 * self.hop - 1).bit_length())  # powers of 2

    @property
    def length(self):
        """Samples of a sound that fills the picture."""
        return self.hop * self.side


SPEECH = Mel()
SECONDS = (0.5, 600)  # of a sound, as --seconds may ask for

# --------------------------------------------------------------------------------------------------
# Files


def plain_pcm(raw):
    """The bytes of a .wav file whose format, if it is "extensible" PCM, is called just PCM.

    Programs write 24 bits so; the standard library reads it from Python 3.12 on, and refuses it
    before. The number of the format stands 8 bytes after "fmt ", the real one 32 bytes after."""
    at = raw.find(b"fmt ", 12)
    if at >= 0 and raw[at + 8 : at + 10] == b"\xfe\xff" and raw[at + 32 : at + 34] == b"\1\0":
        return raw[: at + 8] + b"\1\0" + raw[at + 10 :]
    return raw


def read_wav(path, seconds=None):
    """((n,) float32 in [-1, 1), rate) of a .wav file; several channels are mixed, by their mean.

    seconds: how much of its beginning is wanted; None: all. DataError for what is no PCM of 8, 16,
    24 or 32 bits (floats and compressed sounds), and for a file that was cut short."""
    try:
        with open(path, "rb") as f:
            raw = plain_pcm(f.read())
        with wave.open(io.BytesIO(raw)) as f:
            channels, width, rate, n = f.getparams()[:4]
            if seconds is not None:
                n = min(n, int(np.ceil(seconds * rate)))
            raw = f.readframes(n)
    except (wave.Error, EOFError, ValueError) as error:
        raise DataError(f"{path}: no .wav that can be read ({error}); {PLAIN}") from error
    if width not in (1, 2, 3, 4) or not channels or not rate:
        raise DataError(f"{path}: {8 * width} bits, {channels} channels, {rate} Hz; {PLAIN}")
    if not n:
        raise DataError(f"{path}: a sound without samples")
    if len(raw) < n * channels * width:
        told = f"{len(raw) // (channels * width):,} of {n:,} samples are there"
        raise DataError(f"{path}: cut short: {told}")
    x = as_numbers(raw, width).reshape(n, channels)
    if channels > 1:
        where = (os.path.dirname(path), channels)
        say_once(where, f"{path}: {channels} channels are mixed to one, by their mean")
    return x.mean(1, dtype=np.float32), rate


def as_numbers(raw, width):
    """(n,) float32 in [-1, 1) of samples of `width` bytes, lowest byte first.

    They are put into the upper bytes of 32-bit integers: so one rule serves all widths. Samples of
    one byte alone have no sign, 128 is silence: turning their highest bit gives them one."""
    bytes_of = np.frombuffer(raw, np.uint8).reshape(-1, width)
    if width == 1:
        bytes_of = bytes_of ^ 128
    wide = np.zeros((len(bytes_of), 4), np.uint8)
    wide[:, 4 - width :] = bytes_of
    return (wide.view("<i4")[:, 0] / 2**31).astype(np.float32)


def write_wav(path, sound, rate):
    """sound (n,) -> a .wav file of 16 bits, one channel. What is over 1 is cut off."""
    numbers = np.rint(np.clip(np.asarray(sound, np.float64), -1, 1) * 32767).astype("<i2")
    # The folder has the old file or the new one, never half of it.
    with whole(path) as temporary, wave.open(temporary, "wb") as f:
        f.setnchannels(1)
        f.setsampwidth(2)
        f.setframerate(rate)
        f.writeframes(numbers.tobytes())


def resample(x, rate, wanted):
    """(n,) at one rate -> (round(n wanted / rate),) at another; pitch and duration stay.

    The rule: write the sound as its Fourier sum, leave out what is above half of the wanted rate,
    and read the sum at the new times. It takes the sound for periodic, so that its last
    milliseconds hear a little of its first."""
    if rate == wanted:
        return x
    n = max(1, round(len(x) * wanted / rate))
    spectrum = np.fft.rfft(x)[: n // 2 + 1]  # irfft fills up with zeros what it misses
    return (np.fft.irfft(spectrum, n) * (n / len(x))).astype(np.float32)


def fit_length(x, n):
    """(m,) -> (n,): the beginning, or all and then silence."""
    return np.pad(x[:n], (0, max(0, n - len(x))))


# --------------------------------------------------------------------------------------------------
# Sound -> picture


@functools.cache
def mel_matrix(how):
    """M (S, W/2 + 1): the share of frequency f that band b takes, triangles of height 1.

    Each begins at its lower neighbour's top and ends at its upper neighbour's. So where two of them
    overlap their shares add up to 1, and no energy is counted twice."""
    frequencies = torch.linspace(0, how.rate / 2, how.window // 2 + 1, dtype=torch.float64)
    ends = torch.tensor([how.low, how.rate / 2], dtype=torch.float64)
    corners = torch.linspace(*mel_of(ends).tolist(), how.side + 2, dtype=torch.float64)
    below, top, above = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    pitch = mel_of(frequencies)
    rising = (pitch - below) / (top - below)
    falling = (above - pitch) / (above - top)
    return torch.minimum(rising, falling).clamp(min=0).float()


def mel_of(frequency):
    """The mel scale of O'Shaughnessy (1987), in its usual form: 1000 Hz are 1000 mel."""
    return 2595 * torch.log10(1 + frequency / 700)


def hann(W):
    return torch.hann_window(W, periodic=True)


def tone_power(how):
    """What |X|^2 of a tone of amplitude 1 adds up to, over all frequencies: Parseval."""
    return how.window * hann(how.window).square().sum() / 4


def spectrum_of(sound, how):
    """(B, n) -> (B, S, W/2 + 1) complex: X of every piece, n = hop S."""
    # Zeros before and after, so that piece k lies around (k + 1/2) hop.
    more = how.window - how.hop
    padded = fn.pad(sound, (more // 2, more - more // 2))
    pieces = padded.unfold(1, how.window, how.hop)  # (B, S, W)
    return torch.fft.rfft(pieces * hann(how.window))


def sound_of(spectrum, how):
    """(B, S, W/2 + 1) -> (B, n): the sound whose pieces come nearest to these, by least squares.

    Pieces overlap: each sample is a mean of those that hold it, weighted by the window."""
    w = hann(how.window)
    pieces = torch.fft.irfft(spectrum) * w
    total = (how.side - 1) * how.hop + how.window
    # `fold` is unfold's opposite: it lays the pieces where they were, and adds what overlaps.
    place = {"output_size": (1, total), "kernel_size": (1, how.window), "stride": (1, how.hop)}
    added = fn.fold(pieces.transpose(1, 2), **place)
    weights = (w**2)[None, :, None].expand(1, -1, how.side)
    sound = added / fn.fold(weights, **place).clamp(min=1e-8)
    start = (how.window - how.hop) // 2
    return sound[:, 0, 0, start : start + how.length]


def mel_energies(sound, how):
    """E (B, S, S) of sounds (B, n): band b, from low to high, in piece k."""
    X = spectrum_of(sound, how)
    power = X.real.square() + X.imag.square()  # (B, S, W/2 + 1); abs() would take roots in vain
    energy = power @ mel_matrix(how).T / tone_power(how)
    return energy.transpose(1, 2)


def log_mel(sound, how):
    """Sounds (B, n), n = hop S, -> pictures (B, 1, S, S) uint8, high pitches on top."""
    decibel = 10 * torch.log10(mel_energies(sound, how).clamp(min=1e-12))
    pixels = 255 * (1 + decibel / DECIBELS)
    return pixels.clamp(0, 255).round().to(torch.uint8).flip(1)[:, None]


def read_sound(path, how=SPEECH):
    """A .wav file as its picture (1, S, S) uint8. DataError: see read_wav."""
    x, rate = read_wav(path, how.length / how.rate)
    seconds = how.length / how.rate
    told = f"a sound is read as the log-mel picture (1, {how.side}, {how.side}) of its first"
    say_once(("sound", os.path.dirname(path)), f"{path}: {told} {seconds:g} s, at {how.rate} Hz")
    x = fit_length(resample(x, rate, how.rate), how.length)
    return log_mel(torch.from_numpy(x)[None], how)[0].numpy()


# --------------------------------------------------------------------------------------------------
# Picture -> sound


def energies_of(pictures, how):
    """Pictures (B, 1, S, S), 0 to 255, -> E (B, S, S), from low to high. Black is silence."""
    pixels = torch.as_tensor(pictures).float()[:, 0].flip(1)
    energy = 10 ** (DECIBELS / 10 * (pixels / 255 - 1))
    return torch.where(pixels < 0.5, 0.0, energy)


def listen(pictures, how, rounds=60):
    """Pictures (B, 1, S, S) -> sounds (B, n) that look like them, by Griffin and Lim.

    The first phases are random, by a fixed seed: so a picture has one sound."""
    power = torch.linalg.pinv(mel_matrix(how)) @ energies_of(pictures, how) * tone_power(how)
    size = power.clamp(min=0).sqrt().transpose(1, 2)  # (B, S, W/2 + 1)
    generator = torch.Generator().manual_seed(0)
    phase = 2 * torch.pi * torch.rand(size.shape, generator=generator)
    # Neighbouring pieces overlap, so not all phases are possible. Each round makes a sound of the
    # wanted sizes, and takes over the phases that this sound has.
    sound = sound_of(torch.polar(size, phase), how)
    for _ in range(rounds):
        phase = spectrum_of(sound, how).angle()
        sound = sound_of(torch.polar(size, phase), how)
    return sound


def main(argv=None):
    parser = argparse.ArgumentParser(description="What a log-mel picture leaves of a sound.")
    parser.add_argument("wav", help="a sound")
    parser.add_argument("out", help="the .wav that is made of its picture")
    args = parser.parse_args(argv)
    heard = listen(read_sound(args.wav)[None], SPEECH)[0]
    write_wav(args.out, heard, SPEECH.rate)
    print(f"{args.out}: what the picture of {args.wav} sounds like")


if __name__ == "__main__":
    run_script("sounds.py", main)
