"""Velocity matching (PAV-DiT 4.2), all tasks at once (UniForm III): what an update is shown, and its error.

Two halves: `VelocityMatching.inputs` is the host's work (chance, latents, text), `VelocityMatching.error` the
device's alone, the same kernels whatever the inputs hold, so that it can be part of a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import pad

from pavdit.config import ModelConfig
from pavdit.data.latent_cache import LatentSet
from pavdit.flow.path import interpolate, target_velocity
from pavdit.latents import PlaneLayout
from pavdit.text import (
    FreeTextEncoder,
    LearnedEncoder,
    TextEncoder,
    TextTokens,
    WordEncoder,
    bucket_mask,
    bucket_of,
    knows,
    pad_to,
    to_bucket,
)
from pavdit.train.draws import Draws
from pavdit.train.models import Generator

# Per task and stream (video, audio): is it made, is it given, is its latent the joint one?
MADE = torch.tensor([[True, True], [False, True], [True, False], [True, False], [False, True]])
GIVEN = torch.tensor([[False, False], [True, False], [False, True], [False, False], [False, False]])
JOINT = torch.tensor([[True, True], [False, True], [True, False], [False, False], [False, False]])


class VelocityMatching:
    """Compares velocities on made, valid cells.

    Args:
        config: sizes and the flow.
        layout: of P.
        device: of the generator.

    Attributes:
        stream_of_frame: ``(G,)`` int64 on the CPU, 0 on frames of the video, 1 on those of the sound.
        valid: ``(G, rows, columns)`` bool, False on padding; None: there is none.
    """

    def __init__(self, config: ModelConfig, layout: PlaneLayout, device: torch.device) -> None:
        self.config, self.device = config, device
        self.stream_of_frame = torch.where(layout.frames_of("video"), 0, 1)
        valid = layout.valid()
        self.valid = None if valid is None else valid.to(device)

    def inputs(self, text: TextEncoder, latents: LatentSet, draws: Draws) -> dict[str, Tensor]:
        """What the generator is shown of some samples, and what it should say; on the device.

        Returns:
            ``point`` and ``target`` ``(B, C, G, rows, columns)``; ``times`` ``(B, 2)`` and ``given``
            ``(B, 2)`` of the streams; ``made`` ``(B, G)``; ``task`` and ``drop_text`` ``(B,)``; ``rows`` of a
            learned table or ``text`` ``(B, N, D)`` of a language model, or both and ``spoken`` ``(B,)``, True
            where the latter counts; ``text_mask`` ``(B, N)`` where prompts do not fill their bucket.
        """
        clips, frame = draws.clips.tolist(), self.stream_of_frame
        made, given, joint = MADE[draws.task], GIVEN[draws.task], JOINT[draws.task]  # (B, 2) each
        # a stream that is neither given nor made stays noise: t = 0
        times = torch.where(given, 1.0, torch.where(made, draws.t[:, None], 0.0))  # (B, 2)
        flips = draws.mirrored.tolist()
        # what a task is given or makes by itself is of one stream alone, what meets another stream is joint
        data = torch.where(
            self._put(_spread(joint[:, frame])),
            self._put(latents.read(clips, ["joint"] * len(clips), flips)),
            self._put(latents.read(clips, ["alone"] * len(clips), flips)),
        )
        noise = draws.noise(tuple(data.shape[1:]), self.config.flow, self.device)
        point = interpolate(noise, data, self._put(times[:, None, frame]))
        # given planes are the data to the bit
        point = torch.where(self._put(_spread(given[:, frame])), data, point)
        prompts = [prompt_of(latents, i, text) for i in clips]
        shown = {
            "point": point,
            "target": target_velocity(noise, data),
            "times": times,
            "given": given,
            "made": made[:, frame],
            "task": draws.task,
            "drop_text": draws.drop_text | torch.tensor([not prompt for prompt in prompts]),
        }
        names = text.vocabulary if isinstance(text, WordEncoder) else text.class_names
        stand_in = next(iter(names), "")  # its tokens are dropped
        spoken = draws.spoken & torch.tensor([bool(prompt) for prompt in prompts])
        shown |= self._caption(text, [prompt or stand_in for prompt in prompts], spoken, stand_in)
        return {name: self._put(x) for name, x in shown.items()}

    def _caption(
        self, text: TextEncoder, prompts: list[str], spoken: Tensor, stand_in: str
    ) -> dict[str, Tensor]:
        longest = self.config.stdit.max_text_length
        if not isinstance(text, LearnedEncoder):
            tokens, mask = to_bucket(text.encode(prompts), longest)
            return {"text": tokens} | ({} if mask is None else {"text_mask": mask})
        known = prompts
        if isinstance(text, FreeTextEncoder):  # what the table cannot say, the language model does
            sayable = [knows(text, prompt) for prompt in prompts]
            spoken = spoken | ~torch.tensor(sayable)
            known = [p if can else stand_in for p, can in zip(prompts, sayable, strict=True)]
        rows, lengths = text.rows(known)
        said: TextTokens | None = None
        if isinstance(text, FreeTextEncoder) and bool(spoken.any()):
            said = text.language.encode([prompts[i] for i in spoken.nonzero().flatten().tolist()])
            each = iter(said.lengths)
            lengths = tuple(next(each) if by else n for n, by in zip(lengths, spoken.tolist(), strict=True))
        bucket = bucket_of(max(lengths), longest)
        shown = {"rows": pad(rows, (0, bucket - rows.shape[1])) if rows.ndim > 1 else rows}
        if isinstance(text, FreeTextEncoder):
            shown |= {"text": torch.zeros(len(prompts), bucket, text.dim), "spoken": spoken}
            if said is not None:
                shown["text"][spoken] = pad_to(said.tokens, bucket).cpu()
        mask = bucket_mask(lengths, bucket)
        return shown if mask is None else shown | {"text_mask": mask}

    def _put(self, x: Tensor) -> Tensor:
        """On the device, not waited for: what is copied lies in memory that stays where it is."""
        if self.device.type == "cuda" and not x.is_cuda:
            x = x.pin_memory()
        return x.to(self.device, non_blocking=True)

    def error(self, model: Generator, inputs: Mapping[str, Tensor]) -> Tensor:
        """The mean over samples of the mean squared error over cells, 0-d. Never waits for the device."""
        text = inputs.get("text")
        if "rows" in inputs:
            assert isinstance(model.text, LearnedEncoder)  # noqa: S101 (`inputs` asked the same)
            tokens = model.text(inputs["rows"])
            learned = pad_to(tokens, bucket_of(tokens.shape[1], self.config.stdit.max_text_length))
            text = learned if text is None else torch.where(_per_row(inputs["spoken"]), text, learned)
        point = inputs["point"]
        velocity = model.stdit(
            point,
            inputs["times"],
            text,
            text_mask=inputs.get("text_mask"),
            drop_text=inputs["drop_text"],
            task=inputs["task"],
            clean=inputs["given"],
            fps=torch.full((len(point),), float(self.config.clip.fps), device=point.device),
        )
        counts = _spread(inputs["made"]).expand(-1, 1, -1, *point.shape[3:])  # (B, 1, G, rows, columns)
        if self.valid is not None:
            counts = counts & self.valid
        square = (velocity.float() - inputs["target"]).square().mean(1, keepdim=True)
        return ((square * counts).flatten(1).sum(1) / counts.flatten(1).sum(1)).mean()


def prompt_of(latents: LatentSet, index: int, text: TextEncoder) -> str:
    """What a clip is trained on: its class where the encoder knows classes only, else its sentence."""
    label = latents.labels[index]
    return label if text.class_names else latents.captions[index] or label


def _per_row(choice: Tensor) -> Tensor:
    """``(B,)`` to ``(B, 1, 1)``."""
    return choice[:, None, None]


def _spread(per_frame: Tensor) -> Tensor:
    """``(B, G)`` to ``(B, 1, G, 1, 1)``."""
    return per_frame[:, None, :, None, None]
