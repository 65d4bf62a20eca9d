"""The plan of a run against the run."""

from nano import nano_run

from pavdit.cli.main import main
from pavdit.train.checkpoint import open_checkpoint
from pavdit.train.plan import predict


def test_sizes_are_those_of_the_run(nano_generator_run):
    saved = open_checkpoint(nano_generator_run)
    plan = predict(saved.config)
    parameters = sum(t.numel() for name, t in saved.tensors("optimizer").items() if name.endswith("/exp_avg"))
    assert plan.parameters == parameters
    frozen = sum(t.numel() for t in saved.tensors("autoencoder").values())
    assert abs(plan.frozen_parameters - frozen) < 0.02 * frozen
    size = sum(path.stat().st_size for path in saved.path.glob("*.safetensors"))
    assert abs(plan.checkpoint - size) < 0.15 * size  # headers weigh something in so small a file
    assert plan.optimizer == 2 * plan.gradients == 8 * plan.parameters
    caches = (nano_generator_run.parent / "latents").glob("latents-*")
    # the smallest: other tests may keep sets beside it
    cached = min(sum(path.stat().st_size for path in cache.rglob("*.safetensors")) for cache in caches)
    assert 0 <= cached - plan.latents < 0.05 * cached
    data, train = saved.config.data, saved.config.train
    halves = saved.config.model_copy(
        update={
            "data": data.model_copy(update={"flip_probability": 0.5}),
            "train": train.model_copy(update={"latent_dtype": "float16"}),
        }
    )
    clips = data.num_clips
    assert predict(halves).latents == plan.latents / clips / 2 * (2 * (clips - data.held_out) + data.held_out)


def test_what_counts_is_counted(tmp_path):
    options = ({}, {"accumulate": 2}, {"first_stage": tmp_path})
    whole, halves, second = (predict(nano_run(tmp_path, batch_size=4, **more)) for more in options)
    assert halves.step_flops == whole.step_flops and halves.activations < 0.6 * whole.activations
    assert second.parameters == whole.parameters and whole.adversary_parameters == 0
    assert second.gradients == 4 * (whole.parameters + second.adversary_parameters)
    assert second.step_flops > whole.step_flops and second.activations > whole.activations


def test_the_command_says_it_and_runs_nothing(tmp_path, nano_generator_run, capsys):
    run_dir = tmp_path / "run"
    assert (
        main(
            ["train", str(nano_generator_run / "config.yaml"), "--plan", "--set", f"train.run_dir={run_dir}"]
        )
        == 0
    )
    said = capsys.readouterr().out
    assert "activations: " in said and "step seconds: " in said and not run_dir.exists()
