"""The part of `benchmarks/bounce.py` that looks for the nearest training clip of samples: new, or copies?"""

from __future__ import annotations

import numpy as np

from benchmarks.held_out.make import reconstruct
from benchmarks.held_out.observe import Source
from benchmarks.held_out.parts import SAMPLE_SEED, HeldOut, Outcome
from benchmarks.held_out.scores import Row
from pavdit.metrics.nearest import Nearest, Space

SAMPLES = 200
"""At most, whose nearest training clip is looked for; as many training clips go through the autoencoder."""
SHARES = {"least": 0.0, "5 %": 0.05, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "most": 1.0}


def copies(held_out: HeldOut) -> Outcome:
    """Distances of samples to the nearest clip of the training, beside those of true held-out clips.

    Copies would be nearer than clips that nobody trained on. What a copy would be at is shown by training
    clips that went through the autoencoder, by their distance to themselves. If time runs out, the training
    clips met so far, which are drawn evenly, stand for all.
    """
    pipe, host = held_out.pipe, held_out.host
    data = pipe.data
    assert data is not None and data.num_clips is not None  # noqa: S101 - the caller looked
    trained = data.num_clips - data.held_out
    source = Source(held_out.source.spec, held_out.source.scenes, data.seed)

    true = host.features(held_out.clips)
    space = Space(true, source.spec.num_frames, pipe.runtime.device)
    samples = Nearest(space, host.features(held_out.samples()[:SAMPLES]))
    strangers = Nearest(space, true)
    some = np.unique(np.linspace(0, trained - 1, len(samples.distance)).astype(int))
    originals = [one.clip for one in host.true_clips(source, some)]
    again, _ = reconstruct(pipe, originals)
    places = [space.place(host.features(clips)) for clips in (originals, again)]
    as_copies = (places[0] - places[1]).norm(dim=1).cpu().numpy()

    compared = 0
    for indices, rows in host.features_of(source, np.random.default_rng(0).permutation(trained)):
        points = space.place(rows)
        samples.meet(indices, points)
        strangers.meet(indices, points)
        compared += len(indices)
        if held_out.left() <= 0:
            break

    near, far = samples.distance.cpu().numpy(), strangers.distance.cpu().numpy()
    table = [
        Row(f"distance to the nearest: {name}", *(float(np.quantile(d, q)) for d in (near, far, as_copies)))
        for name, q in SHARES.items()
    ]
    limit = np.quantile(far, 0.05)
    shares = [float((distances < limit).mean()) for distances in (near, far, as_copies)]
    table.append(Row("share nearer than 95 % of true clips", *shares))
    closest = [
        {
            "seed": SAMPLE_SEED + int(i),
            "prompt": held_out.prompts[i],
            "training_clip": int(samples.index[i]),
            "distance": float(near[i]),
        }
        for i in near.argsort()[:5]
    ]
    return table, {
        "training_clips": trained,
        "compared": compared,
        "columns": "made: samples; true: held-out clips; chance: training clips through the autoencoder",
        "nearest": closest,
    }
