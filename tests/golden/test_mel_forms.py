"""Mel spectrograms against torchaudio, librosa, SpecVQGAN, and the forms of HiFi-GAN, MM-LDM and YAMNet."""

import wave
from dataclasses import replace

import numpy as np
import pytest
import torch

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
from pavdit.audio.resample import resample

TOLERANCE = 1e-4
"""Of the largest value: powers reach 2000."""


@pytest.fixture(scope="module")
def stored(golden):
    return golden("mel/mel_golden.npz")


def near(got, want):
    assert got.shape == want.shape
    assert np.abs(got.numpy() - want).max() <= TOLERANCE * max(1.0, np.abs(want).max())


def made(stored, form):
    return mel_spectrogram(torch.from_numpy(stored["wav16k"])[None], form)


def test_hifigan_and_mmldm(stored):
    fine, coarse = hifigan_form(16000, 1024, 160, 64), hifigan_form(16000, 1024, 256, 80)
    near(form_filterbank(fine) * 50, stored["slaney_filters_16k_1024_64_0_8000"] * 50)  # peaks near 1
    near(log_floored(made(stored, fine))[0], stored["hifigan_16k_64mel_hop160"])
    near(log_floored(made(stored, coarse))[0], stored["hifigan_16k_80mel_hop256"])
    near(log_unit(made(stored, coarse))[0], stored["mmldm_norm01_16k"])


def test_torchaudio(stored):
    form = torchaudio_form(16000, 1024, 256, 80)
    near(made(stored, form)[0], stored["ta_default"])
    slaney = replace(form, scale="slaney", equal_areas=True, power=1)
    near(made(stored, slaney)[0], stored["ta_slaney"])
    short = MelForm(16000, 512, 400, 160, 64, 125, 7500, "htk", power=1, padding="reflect")
    near(made(stored, short)[0], stored["ta_htk_power"])


def test_librosa(stored):
    power = made(stored, librosa_form(16000, 1024, 256, 80))
    near(power[0], stored["librosa_default_power"])
    near(power_db(power, power.amax())[0], stored["librosa_db"])


def test_specvqgan(golden):
    # A file of their repository, of a sound of which the folder has a copy that is 3 dB louder.
    with wave.open(str(golden("av_align/vas__video_00323.wav"))) as file:
        sound = np.frombuffer(file.readframes(file.getnframes()), np.int16) / 32768 / 2**0.5
    form = MelForm(
        22050, 1024, 1024, 256, 80, 125, 7600, "slaney", equal_areas=True, power=1, padding="reflect"
    )
    got = log_unit(mel_spectrogram(resample(torch.from_numpy(sound)[None], 16000, 22050), form))[0, :, :860]
    assert np.abs(got.numpy() - golden("mel/specvqgan_video_00323_mel.npy")).mean() <= 0.02


def test_yamnet(stored):
    form = MelForm(16000, 512, 400, 160, 64, 125, 7500, "htk", straight_in="mel", power=1)
    near((made(stored, form) + 1e-3).log()[0].T, stored["yamnet_logmel"])
