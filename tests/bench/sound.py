"""Milliseconds of processor time per 2-second clip of `vidjax.data.audio` beside librosa and torchaudio.

    python tests/bench/sound.py [--rounds 30] [FILE ...]

Needs librosa, which is no dependency of vidjax; torchaudio is left out where it cannot be imported. "sound": file to
32,000 samples at 16 kHz; the rival decodes the track with PyAV, as librosa and torchaudio have no decoder for MP4 of
their own, and resamples the 2 seconds. "mel": samples to VGGish's 198 x 64 log-mel; the rivals' triangles lie on the
scale in Hz, so their numbers differ a little. Taken in turn in one run, medians, all threads of the process counted:
set OPENBLAS_NUM_THREADS=1. Default files: the golden clips with sound.
"""

import argparse
import os
import pathlib
import time

import av
import librosa
import numpy as np

from vidjax.data import audio, video

GOLDEN = pathlib.Path(
    os.environ.get("VIDJAX_GOLDEN", pathlib.Path(__file__).resolve().parents[3] / "shared" / "golden")
)
START = 0.5


def decode(path):
    """2 seconds of the track as float32, and their rate: every frame up to there is decoded, none counted."""
    parts = []
    with av.open(path, **video.METADATA) as container:
        stream = container.streams.audio[0]
        resampler = av.AudioResampler("fltp", "mono")
        for frame in container.decode(stream):
            parts += [part.to_ndarray()[0] for part in resampler.resample(frame)]
            if frame.time > START + 2:
                break
        rate = frame.sample_rate
    return np.concatenate(parts)[round(START * rate) : round((START + 2) * rate)], rate


def librosa_sound(path):
    samples, rate = decode(path)
    return librosa.resample(samples, orig_sr=rate, target_sr=16000)


def librosa_mel(samples):
    options = {"n_fft": 512, "win_length": 400, "hop_length": 160, "center": False, "power": 1.0, "n_mels": 64}
    mel = librosa.feature.melspectrogram(y=samples, sr=16000, fmin=125, fmax=7500, htk=True, norm=None, **options)
    return np.log(mel.T + 0.01)


def torchaudio_mel():
    """A function as `librosa_mel`, of torchaudio's transform."""
    import torch
    import torchaudio

    torch.set_num_threads(1)
    options = {"n_fft": 512, "win_length": 400, "hop_length": 160, "center": False, "power": 1.0, "n_mels": 64}
    transform = torchaudio.transforms.MelSpectrogram(16000, f_min=125, f_max=7500, **options)
    return lambda samples: torch.log(transform(torch.from_numpy(samples)) + 0.01)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("files", nargs="*")
    values = parser.parse_args()
    folder = GOLDEN / "video"
    files = values.files or [*sorted((folder / "sound").glob("*.mpg")), folder / "clips" / "R6llTwEh07w.mp4"]
    samples = audio.read(str(files[0]), START, START + 2)[0]
    methods = {
        "sound  vidjax": lambda path: audio.read(path, START, START + 2),
        "sound  PyAV + librosa": librosa_sound,
        "mel    vidjax": lambda path: audio.log_mel(samples),
        "mel    librosa": lambda path: librosa_mel(samples),
        "map    vidjax 128 x 80": lambda path: audio.spectrogram(samples, 128, 80),
    }
    try:
        mel = torchaudio_mel()
        methods["mel    torchaudio"] = lambda path: mel(samples)
    except (ImportError, OSError) as error:
        print(f"torchaudio is left out: {str(error).splitlines()[0]}")
    times = {name: [] for name in methods}
    for number in range(values.rounds + 1):
        for path in map(str, files):
            for name, method in methods.items():
                begin = time.process_time()
                method(path)
                if number:
                    times[name].append(1000 * (time.process_time() - begin))
    for name, taken in times.items():
        middle, mean, high = np.median(taken), np.mean(taken), np.quantile(taken, 0.9)
        print(f"{name:24} {middle:7.2f} ms  (mean {mean:.2f}, 90 % below {high:.2f})")


if __name__ == "__main__":
    main()
