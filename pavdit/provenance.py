"""What a clip's file says of its making, and back: enough to make the clip again with the same weights.

``batch`` is the clip's place in a batch and how many there were: products of another number of rows round
otherwise. Beside the others of its batch nothing depends on (`pavdit.batching.plan`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from pavdit.batching import Request
from pavdit.clip import Clip, Origin
from pavdit.options import Choices, SamplingOptions
from pavdit.runtime import Settings
from pavdit.tasks import JOINT

CIRCUMSTANCES = ("checkpoint", "adapters", "device", "compile", "attention", "batch", "given")
"""Where and by what a clip was made; all else decides which clip it is, but for rounding."""


def provenance_of(
    about: Mapping[str, str], request: Request, options: SamplingOptions, given: Clip | None
) -> dict[str, str]:
    """Of weights and runtime (`about`), a clip, its options and the clip that its task takes a stream of."""
    facts = {
        **about,
        "prompt": request.prompt or "",
        "seed": str(request.seed),
        **options.described(),
    }
    return facts | given_facts(given)


def given_facts(given: Clip | None) -> dict[str, str]:
    """Of the clip that a task takes a stream of."""
    if given is None:
        return {}
    origin = given.origin
    if origin is None:
        return {"given": given.name}
    start = {} if origin.start_seconds is None else {"given_start_seconds": str(origin.start_seconds)}
    return {"given": origin.path, "given_sha256": origin.sha256} | start


def adapters_described(adapters: Mapping[str, float]) -> dict[str, str]:
    """For a file's metadata: where adapters were and how much they count; nothing where there are none."""
    return {"adapters": json.dumps(adapters)} if adapters else {}


def is_same_clip(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether both files hold the same clip, up to rounding; `other` may say more than a provenance."""
    other = {"pipeline": JOINT, **other}  # files of earlier versions do not say it
    return all(other.get(key) == value for key, value in one.items() if key not in CIRCUMSTANCES)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A provenance, read back.

    Attributes:
        model: names the weights.
        checkpoint: where they were, as given.
        adapters: where those of the weights were, as given, with their strengths.
        prompt: None: no condition.
        seed: of the noise.
        task: one of `pavdit.config.TASKS`.
        choices: options of the call.
        settings: how the models ran.
        device: on which kind of device.
        place: of the clip in its batch, from 0.
        batch: clips in the batch.
        given: where the given clip was read from; None: nothing was given, or nothing that was read.
    """

    model: str
    checkpoint: str
    adapters: Mapping[str, float]
    prompt: str | None
    seed: int
    task: str
    choices: Choices
    settings: Settings
    device: str
    place: int
    batch: int
    given: Origin | None

    @property
    def backbone(self) -> str:
        """Names the weights without their adapters."""
        return "+".join(part for part in self.model.split("+") if "*" not in part)

    def settings_on(self, device: str) -> Settings:
        """How the models run again; on another kind of device without what suited only the first."""
        if device == self.device:
            return self.settings
        return {key: self.settings[key] for key in ("dtype", "fp8", "absorbed")}  # type: ignore[return-value,literal-required]

    @classmethod
    def of(cls, facts: Mapping[str, str]) -> Recipe:
        """Read the metadata of a file.

        Raises:
            KeyError: something is missing.
            ValueError: something cannot be read.
        """
        model = facts["model"]
        place, batch = map(int, facts["batch"].split("/"))
        form = facts["tier"].split("+")
        settings: Settings = {
            "dtype": facts["dtype"],  # type: ignore[typeddict-item]  # refused by the runtime if it is none
            "compile": facts["compile"] == "on",
            "fp8": "fp8" in form,
            "absorbed": "absorbed" in form,
            "attention": facts["attention"],
        }
        given = None
        if "given_sha256" in facts:
            start = facts.get("given_start_seconds")
            given = Origin(facts["given"], facts["given_sha256"], None if start is None else Fraction(start))
        return cls(
            model=model,
            checkpoint=facts["checkpoint"],
            adapters=json.loads(facts.get("adapters", "{}")),
            prompt=facts["prompt"] or None,
            seed=int(facts["seed"]),
            task=facts["task"],
            choices=SamplingOptions.chosen(facts),
            settings=settings,
            device=facts["device"],
            place=place - 1,
            batch=batch,
            given=given,
        )
