"""Other code's mel spectrograms against sums by hand; against their own outputs in `tests/golden`."""

import cmath
import math

import pytest
import torch
from numerics import assert_equation

from pavdit.audio.mel_forms import (
    MelForm,
    form_filterbank,
    hifigan_form,
    librosa_form,
    log_floored,
    log_unit,
    mel_spectrogram,
    power_db,
    torchaudio_form,
)

FORMS = {
    "librosa": librosa_form(8000, 32, 8, 4),
    "torchaudio": torchaudio_form(8000, 32, 8, 4),
    "hifigan": hifigan_form(8000, 32, 8, 4),
    "yamnet": MelForm(8000, 32, 24, 8, 4, 100, 3500, "htk", straight_in="mel", power=1),
    "short window": MelForm(8000, 32, 24, 8, 4, 100, 3500, "htk", power=1, padding="reflect"),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_its_definition(name):
    form = FORMS[name]
    wave = torch.rand(1, 80, dtype=torch.float64) - 0.5
    pad = 0 if form.padding is None else 12 if name == "hifigan" else 16
    samples = wave[0].tolist()
    if form.padding == "reflect":
        samples = samples[pad:0:-1] + samples + samples[-2 : -2 - pad : -1]
    elif form.padding == "constant":
        samples = [0.0] * pad + samples + [0.0] * pad
    begin = 0 if form.padding is None else (32 - form.win_length) // 2
    starts = range(begin, len(samples) - begin - form.win_length + 1, 8)
    window = [0.5 - 0.5 * math.cos(2 * math.pi * i / form.win_length) for i in range(form.win_length)]
    columns = []
    for start in starts:
        bins = []
        for k in range(17):
            z = sum(
                samples[start + i] * w * cmath.exp(-2j * math.pi * k * i / 32) for i, w in enumerate(window)
            )
            bins.append((abs(z) ** 2 + form.floor) ** (form.power / 2))
        columns.append(bins)
    want = form_filterbank(form, None, torch.float64) @ torch.tensor(columns, dtype=torch.float64).T
    assert_equation(mel_spectrogram(wave, form)[0], want)


def test_triangles_rise_and_fall_where_the_scale_says():
    # HTK: 1000 Hz is 1000 mel. Three corners in Hz, straight in Hz or in mel.
    mels = [2595 * math.log10(1 + f / 700) for f in (0, 4000)]
    middle_hz = 700 * (10 ** (sum(mels) / 2 / 2595) - 1)
    form = MelForm(8000, 8, 8, 8, 1, 0, 4000, "htk")
    sides = [min(f / middle_hz, (4000 - f) / (4000 - middle_hz)) for f in (0, 1000, 2000, 3000, 4000)]
    assert form_filterbank(form)[0].tolist() == pytest.approx(sides, abs=1e-6)
    in_mel = MelForm(8000, 8, 8, 8, 1, 0, 4000, "htk", straight_in="mel", equal_areas=True)
    at = [2595 * math.log10(1 + f / 700) / mels[1] for f in (0, 1000, 2000, 3000, 4000)]
    want = [2 * min(x, 1 - x) * 2 / 4000 for x in at]
    assert form_filterbank(in_mel)[0].tolist() == pytest.approx(want, abs=1e-9)


def test_logarithms():
    mel = torch.tensor([[[1.0, 0.1, 1e-7]]])
    assert log_floored(mel)[0, 0].tolist() == pytest.approx([0, math.log(0.1), math.log(1e-5)])
    assert log_unit(mel)[0, 0].tolist() == pytest.approx([0.8, 0.6, 0], abs=1e-6)
    assert power_db(mel)[0, 0].tolist() == pytest.approx([0, -10, -70], abs=1e-5)
    assert power_db(mel, reference=10.0, range_db=40)[0, 0].tolist() == pytest.approx(
        [-10, -20, -50], abs=1e-5
    )


def test_a_wave_without_a_column_is_refused():
    with pytest.raises(ValueError, match=r"^mel_spectrogram: want wave \(B,S\), S >= 24, got \(1, 23\)"):
        mel_spectrogram(torch.zeros(1, 23), FORMS["yamnet"])
