"""Weights, average, optimisers and clock of a run, and its updates: device work, not waited for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pavdit.config import SystemRun
from pavdit.flow.graph import Capture
from pavdit.train import checkpoint as checkpoints
from pavdit.train.ema import Ema
from pavdit.train.optim import Descent, decayed_rate
from pavdit.train.parallel import own_parts, parallel_objective
from pavdit.train.ranks import on_first
from pavdit.train.sharded import like, load_shards, save_shards
from pavdit.train.stage import Stage
from pavdit.train.update import GraphedUpdate, descend

MAX_REFUSED = 5
"""Updates in a row that may be refused before the weights go back to the last checkpoint."""

MAX_ROLL_BACKS = 2
"""Times that they go back without a checkpoint of new weights in between, before the run stops."""


class NonFiniteError(ArithmeticError):
    """Loss or gradient stayed infinite or NaN; no such update was applied."""


@dataclass(frozen=True, slots=True)
class Refused:
    """An update that was not applied.

    Attributes:
        step: its number, from 1.
        tensor: the first that was not finite: a term of the loss, or the gradient of a parameter.
        clips: what it was of.
    """

    step: int
    tensor: str
    clips: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What the host reads of an update, later."""

    step: int
    refused: Tensor
    terms: dict[str, Tensor]
    norms: dict[str, Tensor]
    names: dict[str, tuple[str, ...]]

    def first_bad_tensor(self) -> str:
        for name, value in self.terms.items():
            if name != "loss" and not name.endswith("gradient_norm") and not value.isfinite():
                return name
        for what, norms in self.norms.items():
            bad = (~norms.isfinite()).nonzero().flatten().tolist()
            if bad:
                return f"gradient of {what}.{self.names[what][bad[0]]}"
        return "loss"


class Trainer:
    """Everything that a checkpoint restores.

    Args:
        config: the run.
        stage: what is trained.
        capture: see `GraphedUpdate`.

    Attributes:
        graph: the model's update as a graph, and whether it is one.
        step: updates done, refused ones too.
        seconds: time trained.
        first_stage: where a second stage began, its ``path`` and the hash of its ``model``; empty otherwise.
        initial: the same of `begin_with`.
    """

    def __init__(self, config: SystemRun, stage: Stage, capture: Capture | None = None) -> None:
        self.config, self.stage = config, stage
        train = config.train
        self.parts = own_parts(train.batch_size, train.accumulate)
        autoencoder = train.stage == "autoencoder"  # its log-variance heads wait for the KL term
        self.ema = Ema(stage.model, train.ema_decay)
        self.objective = parallel_objective(
            stage.model, stage.loss, some_unused=autoencoder, sharded=train.sharded
        )
        if train.sharded:
            self.ema.shard(stage.model)
        self.descents = {"model": Descent(stage.model, train)}
        if stage.adversary is not None:
            self.descents["adversary"] = Descent(stage.adversary, train)
        self.graph = GraphedUpdate(train, stage, self.parts, self.descents["model"], self.ema, capture)
        self.step, self.seconds = 0, 0.0
        self.first_stage: dict[str, str] = {}
        self.initial: dict[str, str] = {}
        self.in_a_row, self.roll_backs, self.applied = 0, 0, False
        self.verdicts: deque[_Verdict] = deque()

    def update(self) -> tuple[dict[str, Tensor], Tensor]:
        """One update, queued on the device.

        Returns:
            The terms of the loss and the gradient norm, 0-d tensors, and whether the update was refused (1.0
            or 0.0): a loss or gradient that is not finite changes neither weights nor average. `refusals`
            says so once the device is done.
        """
        terms = self._update_model()
        refused, norms = terms.pop("refused"), {"model": terms.pop("norms")}
        if self.stage.adversary is not None:
            of_adversary = self._update_adversary(self.stage.adversary)
            if of_adversary:
                refused = torch.maximum(refused, self.descents["adversary"].refused)
                norms["adversary"] = self.descents["adversary"].norms
                terms |= of_adversary
        self.graph.queued()
        self.step += 1
        names = {name: self.descents[name].names for name in norms}
        self.verdicts.append(_Verdict(self.step, refused, terms, norms, names))
        return terms, refused

    def _update_model(self) -> dict[str, Tensor]:
        stage, train, descent = self.stage, self.config.train, self.descents["model"]
        if stage.adversary is not None:
            stage.adversary.requires_grad_(False)
        self._set_rate(descent, train.learning_rate)
        results = self.graph(self.step)
        if results is None:
            results = descend(descent, self.objective, self.parts, self.step, train, averaged=True)
            self.ema.update(stage.model, descent.refused)
            results |= {"refused": descent.refused, "norms": descent.norms}
        return results

    def _update_adversary(self, adversary: nn.Module) -> dict[str, Tensor]:
        train, descent = self.config.train, self.descents["adversary"]
        adversary.requires_grad_(True)
        self._set_rate(descent, train.adversary_learning_rate or train.learning_rate)
        loss = self.stage.adversary_loss
        terms = descend(descent, loss, self.parts, self.step, train, averaged=False)
        for name in ("loss", "gradient_norm") if terms else ():
            terms[f"adversary_{name}"] = terms.pop(name)
        return terms

    def _set_rate(self, descent: Descent, rate: float) -> None:
        descent.set_rate(decayed_rate(self.config.train, rate, self.step, self.seconds))

    def rates(self) -> dict[str, float]:
        """Learning rates of the last update; waits for the device."""
        rates = {name: d.optimizer.param_groups[0]["lr"].item() for name, d in self.descents.items()}
        return {
            "learning_rate" if name == "model" else f"{name}_learning_rate": rate
            for name, rate in rates.items()
        }

    def refusals(self, behind: int = 1) -> Iterator[Refused]:
        """Verdicts that were not read yet, less the newest `behind`: the device is done with the others, as a
        rule, so the host does not wait for it. Three in a row too many and the weights go back.

        Raises:
            NonFiniteError: they had gone back and nothing was won.
        """
        while len(self.verdicts) > behind:
            verdict = self.verdicts.popleft()
            if not verdict.refused.item():
                self.in_a_row, self.applied = 0, True
                continue
            self.in_a_row += 1
            bad = verdict.first_bad_tensor()
            yield Refused(verdict.step, bad, tuple(self.stage.clip_names(verdict.step - 1)))
            if self.in_a_row >= MAX_REFUSED:
                self._roll_back(bad)

    def _roll_back(self, bad: str) -> None:
        """Weights of the last checkpoint; the steps go on, so the clips since then are not repeated."""
        run_dir = self.config.train.run_dir
        saved, _ = on_first(lambda: checkpoints.latest(run_dir, type(self.config)))
        if saved is None or self.roll_backs >= MAX_ROLL_BACKS:
            raise NonFiniteError(
                f"{run_dir}: want a finite loss and gradient, got {bad} not finite and {MAX_REFUSED} "
                f"updates in a row refused up to step {self.step}, after going back {self.roll_backs} times"
            )
        self._load(saved, *self.descents)
        self.in_a_row, self.roll_backs, self.applied = 0, self.roll_backs + 1, False

    def begin_second_stage(self, saved: checkpoints.Checkpoint[Any]) -> None:
        """Begin with the weights, average and optimiser of a first stage; steps count from 0.

        Raises:
            CheckpointError: of another architecture, or of no autoencoder's first stage.
        """
        theirs = saved.config.train
        if theirs.stage != "autoencoder" or theirs.origin is not None:
            what = "a generator's" if theirs.stage == "generator" else "a second stage's"
            raise checkpoints.CheckpointError(
                f"{saved.path}: want the checkpoint of an autoencoder's first stage, got {what}"
            )
        checkpoints.require_architecture(saved, self.config.model, "autoencoder")
        self._load(saved, "model")
        self.first_stage = {"path": str(saved.path), "model": saved.model_hash}

    def begin_with(self, saved: checkpoints.Checkpoint[Any]) -> None:
        """Begin with the averaged model of any run of this architecture; steps and moments begin anew.

        Raises:
            CheckpointError: of another architecture.
        """
        stage = self.config.train.stage
        checkpoints.require_architecture(saved, self.config.model, stage)
        name = "ema" if saved.config.train.stage == stage else "autoencoder"
        tensors = saved.tensors(name)
        for model in (self.stage.model, self.ema.model):
            checkpoints.load_weights(model, tensors, saved.path / f"{name}.safetensors")
        self.initial = {"path": str(saved.path), "model": saved.model_hash}

    def restore(self, saved: checkpoints.Checkpoint[Any]) -> None:
        """Continue from a checkpoint.

        Raises:
            CheckpointError: of another architecture, another first stage, or with other discriminators.
        """
        checkpoints.require_architecture(saved, self.config.model, self.config.train.stage)
        want, got = self.config.train.origin, saved.config.train.origin
        if want != got:
            raise checkpoints.CheckpointError(
                f"{saved.path}: want a run that began with train.first_stage {want}, got {got}"
            )
        if ("adversary" in self.descents) != saved.has("adversary"):
            want_or_not = "discriminators" if "adversary" in self.descents else "no discriminators"
            raise checkpoints.CheckpointError(
                f"{saved.path}: want {want_or_not} (model.mdsa.adversarial), got the opposite"
            )
        self._load(saved, *self.descents)
        self.step, self.seconds = saved.step, saved.state["seconds"]
        self.first_stage = saved.state.get("first_stage", {})
        self.initial = saved.state.get("initial", {})

    def _load(self, saved: checkpoints.Checkpoint[Any], *names: str) -> None:
        if self.config.train.sharded != saved.config.train.sharded:
            raise checkpoints.CheckpointError(
                f"{saved.path}: want a run with train.sharded {self.config.train.sharded}, got the opposite"
            )
        for name in () if self.config.train.sharded else names:
            descent = self.descents[name]
            checkpoints.load_weights(descent.module, saved.tensors(name), saved.path / f"{name}.safetensors")
            descent.load(saved.tensors(_optimizer(name)))
        checkpoints.load_weights(self.ema.model, saved.tensors("ema"), saved.path / "ema.safetensors")
        self.ema.num_updates.fill_(saved.state["ema_updates"])
        if self.config.train.sharded:
            self.descents["model"].begin()
            load_shards(saved.path, self._shards())
            for own, buffer in zip(self.stage.model.buffers(), self.ema.model.buffers(), strict=True):
                own.copy_(buffer)

    def averaged(self) -> nn.Module:
        """The model with averaged weights; all ranks call it."""
        self.ema.gather(self.stage.model)
        return self.ema.model

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """What a checkpoint holds as safetensors: file stem to tensors."""
        tensors: dict[str, Mapping[str, Tensor]] = {"ema": self.averaged().state_dict(), **self.stage.frozen}
        for name, descent in () if self.config.train.sharded else self.descents.items():
            tensors |= {name: descent.module.state_dict(), _optimizer(name): descent.tensors()}
        return tensors

    def _shards(self) -> dict[str, dict[str, Tensor]]:
        """What the ranks hold together: the same memory, as tensors of all ranks."""
        descent = self.descents["model"]
        averages = zip(descent.names, self.ema.averages, descent.parameters, strict=True)
        return {
            "model": {name: p.detach() for name, p in zip(descent.names, descent.parameters, strict=True)},
            "optimizer": descent.tensors(),
            "ema": {name: like(average, p) for name, average, p in averages},
        }

    def save(self) -> None:
        """Commit a checkpoint of this step, then drop the oldest; all ranks call it, the first commits."""
        run_dir, step, train = self.config.train.run_dir, self.step, self.config.train
        if on_first(lambda: checkpoints.step_directory(run_dir, step).exists()):
            return
        temporary = on_first(lambda: checkpoints.begin(run_dir, step))
        if train.sharded:
            try:
                save_shards(temporary, self._shards())
            except BaseException:
                checkpoints.sweep(run_dir)
                raise
        tensors = self.tensors()
        state = {
            "seconds": self.seconds,
            "ema_updates": int(self.ema.num_updates.item()),
            "first_stage": self.first_stage,
            "initial": self.initial,
        }

        def commit() -> None:
            checkpoints.commit(temporary, step, tensors=tensors, state=state, config=self.config)
            checkpoints.prune(run_dir, train.keep_checkpoints)

        on_first(commit)
        if self.applied:  # a checkpoint of nothing but refused updates wins nothing
            self.roll_backs = 0


def _optimizer(name: str) -> str:
    """File stem of the optimiser of a module."""
    return "optimizer" if name == "model" else f"{name}_optimizer"
