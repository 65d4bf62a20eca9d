"""Adapt a trained generator to other clips: small adapters learn, the generator stays as it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from rich.console import Console

from pavdit.config import ConfigError, RunConfig
from pavdit.data.latent_cache import LatentSet
from pavdit.encoders import Autoencoder
from pavdit.nn.adapters import Adapters, freeze_backbone
from pavdit.text import FreeTextEncoder, LearnedEncoder, TextEncoder, knows
from pavdit.train.adapted import hashes, open_backbone, with_adapters
from pavdit.train.checkpoint import Checkpoint, load_weights, require_architecture
from pavdit.train.generator import GeneratorStage
from pavdit.train.latents import encode_run
from pavdit.train.matching import prompt_of
from pavdit.train.shown import Shown

CAPTIONS_IN_A_MESSAGE = 3


class AdapterStage(GeneratorStage):
    """Velocity matching by a frozen generator with adapters; they alone are trained, averaged and stored.

    Args:
        config: the run, with the hash of its backbone.
        backbone: the generator's checkpoint.
        train, held_out, autoencoder, device, text: as for `GeneratorStage`.
    """

    def __init__(
        self,
        config: RunConfig,
        backbone: Checkpoint,
        train: LatentSet,
        held_out: LatentSet | None,
        autoencoder: Autoencoder,
        device: torch.device,
        text: TextEncoder | None = None,
    ) -> None:
        super().__init__(config, train, held_out, autoencoder, device, text)
        assert config.adapter is not None  # noqa: S101 - the configuration asks for it
        load_weights(self.generator, backbone.tensors("ema"), backbone.path / "ema.safetensors")
        self.backbone = freeze_backbone(self.generator)
        self.frozen = {}
        try:
            self.adapters = Adapters(self.backbone.stdit, config.adapter).to(device)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        self.model = self.adapters
        self.generator = with_adapters(self.backbone, [(self.adapters, 1.0)])

    @classmethod
    def open(
        cls, config: RunConfig, device: torch.device, console: Console
    ) -> tuple[RunConfig, AdapterStage]:
        """Encode what is not in the cache yet, and fill in the backbone's hash.

        Raises:
            CheckpointError: the backbone is missing, damaged, no generator or of another architecture.
            ConfigError: its hash is not the one that is configured, or a place of an adapter is none.
            DataError: a clip cannot be read, or a caption is too long.
        """
        adapter = config.adapter
        assert adapter is not None  # noqa: S101 - the configuration asks for it
        saved = open_backbone(adapter.backbone)
        require_architecture(saved, config.model, "generator")
        if adapter.backbone_hash not in ("", *hashes(saved)):
            raise ConfigError(
                f"adapter.backbone_hash: want {saved.model_hash} ({saved.path}), got {adapter.backbone_hash}"
            )
        adapter = adapter.model_copy(update={"backbone_hash": adapter.backbone_hash or saved.model_hash})
        run = encode_run(config.model_copy(update={"adapter": adapter}), device, console)
        train, held_out = run.latents()
        stage = cls(run.config, saved, train.on(device), held_out, run.autoencoder, device, run.captions)
        if unknown := stage.drop_unknown_captions():
            shown = "; ".join(unknown[:CAPTIONS_IN_A_MESSAGE]) + ("; …" if len(unknown) > 3 else "")
            console.print(
                f"{len(unknown)} captions have words that the backbone does not know ({shown}): their clips "
                "are trained without a caption"
            )
        own, whole = (sum(p.numel() for p in m.parameters()) for m in (stage.adapters, stage.backbone))
        console.print(
            f"adapters of {own:,} parameters, {own / whole:.1%} of the {whole:,} of {adapter.backbone} "
            f"({adapter.backbone_hash}), which stay as they are"
        )
        return run.config, stage

    def drop_unknown_captions(self) -> list[str]:
        """Leave out captions that the backbone's table of words or classes cannot say, and return them.

        What is left of such a sentence would name something else; a language model beside the table says all.
        """
        text = self.generator.text
        if not isinstance(text, LearnedEncoder) or isinstance(text, FreeTextEncoder):
            return []
        self.train, dropped = _with_known_captions(self.train, text)
        self.validation, others = _with_known_captions(self.validation, text)
        return sorted({*dropped, *others})

    def validate(self, model: Any) -> dict[str, float]:  # noqa: ANN401 (adapters)
        """As `GeneratorStage.validate`, of averaged adapters on the backbone."""
        return super().validate(with_adapters(self.backbone, [(model, 1.0)]))

    def show(self, model: Any) -> Shown:  # noqa: ANN401
        """As `GeneratorStage.show`."""
        return super().show(with_adapters(self.backbone, [(model, 1.0)]))


def _with_known_captions(latents: LatentSet, text: LearnedEncoder) -> tuple[LatentSet, list[str]]:
    prompts = [prompt_of(latents, i, text) for i in range(len(latents))]
    known = [not prompt or knows(text, prompt) for prompt in prompts]
    kept = replace(
        latents,
        labels=tuple(label if k else "" for label, k in zip(latents.labels, known, strict=True)),
        captions=tuple(caption if k else "" for caption, k in zip(latents.captions, known, strict=True)),
    )
    return kept, [prompt for prompt, k in zip(prompts, known, strict=True) if not k]
