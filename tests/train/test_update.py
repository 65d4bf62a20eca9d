"""An update as a graph is the update op by op, to the bit, whatever happens on the way."""

from __future__ import annotations

import pytest
import torch
from nano import EVERY_TASK, nano, nano_run
from recorded import RecordedCapture
from torch import Tensor

from pavdit.config import ConfigError, RunConfig
from pavdit.data.bounce import CLASS_NAMES, BounceClips
from pavdit.data.latent_cache import LatentCache, LatentSet
from pavdit.mdsa.autoencoder import MDSA
from pavdit.text import TextTokens
from pavdit.train.autoencoder import AutoencoderStage
from pavdit.train.checkpoint import latest
from pavdit.train.generator import GeneratorStage
from pavdit.train.trainer import MAX_REFUSED, Trainer
from pavdit.train.trial import ROUNDS, SKIPPED, Trial
from pavdit.train.update import GraphedUpdate

UPDATES = 7
NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


class Lengths:
    """A language model that says a token a letter, so that captions fall into two buckets."""

    dim, class_names = 16, ()

    def encode(self, prompts: list[str]) -> TextTokens:
        lengths = tuple(map(len, prompts))
        random = torch.Generator().manual_seed(0)
        return TextTokens(torch.randn(len(prompts), max(lengths), self.dim, generator=random), lengths)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory) -> tuple[MDSA, LatentSet]:
    torch.manual_seed(0)
    mdsa, clips = MDSA(nano()).eval(), BounceClips(6, nano().clip)
    cache = LatentCache(tmp_path_factory.mktemp("latents"), mdsa, nano(), {})
    cache.encode(clips, say=str, progress=lambda done, total: None)
    return mdsa, cache.open(clips)


@pytest.fixture
def trainer_of(encoded, tmp_path):
    """A trainer on latents, some of them NaN at some updates; on captions of a language model, or classes."""

    def make(name: str, capture=None, *, device="cpu", captions=(), bad=(), model=None, **train) -> Trainer:
        mdsa, latents = encoded
        (tmp_path / name).mkdir(exist_ok=True)
        options = {"tasks": EVERY_TASK, "num_steps": 50, "warmup_steps": 5, "dtype": "float32"} | train
        run = nano_run(tmp_path / name, "generator", autoencoder=tmp_path, **options)
        config = nano(text=nano().text.model_copy(update={"class_names": CLASS_NAMES}))
        run = RunConfig(model=config, data=run.data, train=run.train)
        if captions:
            latents = LatentSet(
                latents.shards, latents.keys, (), ("",) * 6, tuple("x" * n for n in captions), latents.names
            )
        torch.manual_seed(1)
        text = Lengths() if captions else None
        stage = GeneratorStage(run, latents, None, mdsa, torch.device(device), text)
        inputs = stage.inputs

        def poisoned(step, part):
            shown = inputs(step, part)
            return shown | {"target": shown["target"] * torch.nan} if step in bad else shown

        stage.inputs = poisoned
        return Trainer(run, stage, capture)

    return make


def state_of(trainer: Trainer) -> dict[str, Tensor]:
    """All that an update changes, copied."""
    kept = {
        f"{stem}.{name}": tensor.detach().clone()
        for stem in ("ema", "model", "optimizer")
        for name, tensor in trainer.tensors()[stem].items()
    }
    return kept | {"num_updates": trainer.ema.num_updates.clone()}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different, different[:5]


CASES = {
    "classes": {},
    "two buckets": {"captions": (3, 8, 12, 5, 8, 8), "batch_size": 1, "num_steps": 9},
    "refused": {"bad": (0, 3)},
    "bfloat16": {"dtype": "bfloat16"},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_graph_is_the_update_op_by_op(trainer_of, case) -> None:
    capture = RecordedCapture()
    plain, graphed = trainer_of("a", **case), trainer_of("b", capture, graph=True, **case)
    assert str(plain.graph.state) == "off: no CUDA" and str(graphed.graph.state) == "on: as asked"
    kept = []
    for _ in range(UPDATES):
        kept.append([trainer.update() for trainer in (plain, graphed)])
        assert_equal(state_of(plain), state_of(graphed))
    assert capture.captures == (3 if "captions" in case else 1)  # 8 tokens, 16 masked, 8 masked
    for (terms, refused), (graph_terms, graph_refused) in kept:  # no later update has changed them
        assert terms.keys() == graph_terms.keys()
        assert all(terms[name].equal(graph_terms[name]) or terms[name].isnan() for name in terms)
        assert refused.equal(graph_refused)
    said, graph_said = ([(r.step, r.tensor) for r in t.refusals(0)] for t in (plain, graphed))
    assert said == graph_said and [step - 1 for step, _ in said] == list(case.get("bad", ()))


def test_the_graph_survives_going_back_and_the_checkpoint_another_run(trainer_of) -> None:
    bad = range(3, 3 + MAX_REFUSED)
    plain, graphed = trainer_of("a", bad=bad), trainer_of("b", RecordedCapture(), graph=True, bad=bad)
    for trainer in (plain, graphed):
        for step in range(10):
            trainer.update()
            list(trainer.refusals())
            if step == 1:
                trainer.save()
        assert trainer.roll_backs == 1
    assert_equal(state_of(plain), state_of(graphed))
    graphed.save()
    resumed = trainer_of("c", RecordedCapture(), graph=True)
    resumed.restore(latest(graphed.config.train.run_dir)[0])
    for trainer in (plain, graphed, resumed):
        trainer.update()
    assert_equal(state_of(plain), state_of(graphed))
    assert_equal(state_of(plain), state_of(resumed))


class Moment:
    """An event of a device that takes as long as the clock says, and is asked too early once."""

    clock, asked = 0.0, 0

    def record(self) -> None:
        self.at = Moment.clock

    def query(self) -> bool:
        Moment.asked += 1
        return Moment.asked > 1

    def elapsed_time(self, end: Moment) -> float:
        return end.at - self.at


@pytest.mark.parametrize(("milliseconds", "on"), [(90, True), (96, False)])
def test_what_is_not_faster_is_off(trainer_of, monkeypatch, milliseconds, on) -> None:
    monkeypatch.setattr(Moment, "asked", 0)
    capture, made = RecordedCapture(), trainer_of("a")
    graph = GraphedUpdate(
        made.config.train, made.stage, made.parts, made.descents["model"], made.ema, capture, Trial(Moment)
    )
    kinds = []
    while graph.trial is not None:
        kinds.append(graph(len(kinds)) is not None)
        checkpoint = 1000 if len(kinds) % 8 == 0 else 0
        Moment.clock += checkpoint + (milliseconds if kinds[-1] else 100)
        graph.queued()
    first = 1 + SKIPPED + ROUNDS  # of the graphs; the captured one and the early question are one more each
    assert kinds == [False] * first + [True] * (1 + ROUNDS + 1)
    assert str(graph.state) == f"{'on' if on else 'off'}: it takes {milliseconds}% of the time op by op"
    assert (graph(99) is not None) == on and capture.captures == 1


def test_what_no_graph_holds_is_done_op_by_op(trainer_of, monkeypatch) -> None:
    plain, graphed = trainer_of("a"), trainer_of("b", RecordedCapture())
    graphed.graph.trial.spans[False] = [None] * (SKIPPED + ROUNDS)
    objective = graphed.stage.objective

    def asking(inputs):
        terms = objective(inputs)
        terms["loss"].item()
        return terms

    graphed.stage.objective = asking
    for _ in range(2):
        plain.update(), graphed.update()
    assert_equal(state_of(plain), state_of(graphed))
    assert str(graphed.graph.state).startswith("off: operation not permitted when stream is capturing: aten")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"graph": False}, "as asked"),
        ({"accumulate": 2, "batch_size": 4}, "accumulate 2"),
        ({"batch_size": 16}, "batch 16, of which launches are a small part"),
    ],
)
def test_where_it_is_off_it_says_why(trainer_of, options, why) -> None:
    assert str(trainer_of("a", RecordedCapture(), **options).graph.state) == f"off: {why}"


def test_a_graph_that_cannot_be_is_not_taken_for_one(trainer_of) -> None:
    with pytest.raises(ConfigError, match="^train.graph: want auto or off, got on with no CUDA$"):
        trainer_of("a", graph=True)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_CUDA)])
def test_the_autoencoders_update_is_a_graph_too(tmp_path, device) -> None:
    trainers = []
    for graph in (False, True):
        run = nano_run(tmp_path, "autoencoder", num_steps=50, warmup_steps=5, graph=graph, device=device)
        torch.manual_seed(1)
        stage = AutoencoderStage(run, BounceClips(6, nano().clip), (), torch.device(device))
        trainers.append(Trainer(run, stage, RecordedCapture() if graph and device == "cpu" else None))
    for _ in range(UPDATES):
        (plain, _), (graphed, refused) = (trainer.update() for trainer in trainers)
        assert plain["loss"].equal(graphed["loss"]) and not refused
    assert str(trainers[1].graph.state) == "on: as asked"
    assert_equal(*(state_of(trainer) for trainer in trainers))


@NEEDS_CUDA
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_cuda_graphs_give_the_same_bits(trainer_of, case) -> None:
    plain, graphed = (trainer_of(f"{on}", device="cuda", graph=on, **case) for on in (False, True))
    for _ in range(UPDATES):
        plain.update(), graphed.update()
    assert_equal(state_of(plain), state_of(graphed))


@NEEDS_CUDA
def test_a_run_finds_out_on_the_device(trainer_of) -> None:
    trainer = trainer_of("a", device="cuda")
    for _ in range(40):
        trainer.update()
        list(trainer.refusals())
    assert trainer.graph.trial is None and "of the time op by op" in str(trainer.graph.state)
