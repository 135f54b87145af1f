"""The options of `training:`, each by what it does to a run."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from mmedge.cli import cli
from mmedge.data.folder import METADATA
from mmedge.evaluation import Evaluation
from mmedge.models import FusedModel, load_checkpoint
from mmedge.runtime.errors import DataError, RecipeError, TrainingError
from mmedge.training.build import build_model
from mmedge.training.callbacks import WeightAverage
from mmedge.training.dataset import TrainingStream, collate
from mmedge.training.recipe import Recipe
from mmedge.training.train import _arguments, train
from mmedge.training.trainer import FusedTrainer, last_checkpoint
from mmedge.training.tune import tune

Make = Callable[..., Recipe]


class Interrupted(Exception):
    pass


def stop_at(step: int) -> Callable[[str, int, int], None]:
    def report(stage: str, done: int, total: int) -> None:
        if stage == "train" and done == step:
            raise Interrupted

    return report


def test_a_resumed_run_is_the_unbroken_one_with_every_state_there_is(with_training: Make, tmp_path: Path) -> None:
    recipe = with_training(
        steps=16,
        ema=0.9,
        evaluate_every=2,
        patience=5,
        schedule="linear",
        sampling="balanced",
        accumulate_steps=2,
        checkpoint_every=3,
    )
    seen: dict[str, list[tuple[int, Any]]] = {"whole": [], "broken": []}

    def scored(run: str) -> Callable[[int, Evaluation], None]:
        return lambda step, evaluation: seen[run].append((step, evaluation.to_dict()))

    whole = train(recipe, tmp_path / "whole", scored=scored("whole"))
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "broken", progress=stop_at(8), scored=scored("broken"))
    assert [step for step, _ in seen["broken"]] == [2, 4, 6]
    resumed = train(recipe, tmp_path / "broken", resume=True, scored=scored("broken"))
    assert resumed.losses == whole.losses
    assert seen["broken"] == seen["whole"]
    metrics = [json.loads((result.output / "metrics.json").read_text()) for result in (whole, resumed)]
    assert metrics[0]["evaluations"] == metrics[1]["evaluations"]
    one, other = (load_file(result.output / "model.safetensors") for result in (whole, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_resumed_run_with_an_encoder_of_transformers_has_its_weights(
    values_without_chance: dict[str, Any], tmp_path: Path
) -> None:
    recipe = Recipe.model_validate(values_without_chance)
    whole = train(recipe, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "broken", progress=stop_at(5))
    resumed = train(recipe, tmp_path / "broken", resume=True)
    assert resumed.losses == whole.losses
    one, other = (load_checkpoint(result.output).state_dict() for result in (whole, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_early_stopping_ends_the_run_and_saves_the_best_model(with_training: Make, tmp_path: Path) -> None:
    # What cannot get better than right for every sample stops soon.
    recipe = with_training(
        steps=60, learning_rate=0.02, schedule="constant", warmup_steps=60, evaluate_every=3, patience=2
    )
    scores: dict[int, float] = {}

    def scored(step: int, evaluation: Evaluation) -> None:
        scores[step] = evaluation.subsets[-1].main.value or 0.0

    result = train(recipe, tmp_path / "run", scored=scored)
    best = max(scores, key=lambda step: (scores[step], -step))
    assert max(scores) == best + 6 < 60
    assert len(result.losses) == max(scores)
    assert result.evaluation.subsets[-1].main.value == scores[best]
    # The same run cut off there has the same weights.
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "cut", progress=stop_at(best + 1))
    kept = load_file(tmp_path / "cut" / "checkpoints" / f"checkpoint-{best}" / "model.safetensors")
    saved = load_file(result.output / "model.safetensors")
    assert all(torch.equal(kept[name], saved[name]) for name in saved)


@pytest.mark.parametrize("values", [{"evaluate_every": 1}, {}])
def test_models_are_not_chosen_by_the_scores_of_some_modalities(
    with_training: Make, tones: Path, tmp_path: Path, values: dict[str, Any]
) -> None:
    data = tmp_path / "tones"
    shutil.copytree(tones, data)
    lines = (data / "validation" / METADATA).read_text().splitlines()
    rows = [json.loads(line) | {f"{('audio', 'image')[n % 2]}_file_name": None} for n, line in enumerate(lines)]
    rows = [row for row in rows if row["image_file_name"] or row["audio_file_name"]]
    (data / "validation" / METADATA).write_text("\n".join(map(json.dumps, rows)))
    recipe = with_training(steps=1, **values).model_copy(update={"data": data})
    stages: list[str] = []

    def report(stage: str, done: int, total: int) -> None:
        stages.append(stage)

    if values:
        with pytest.raises(DataError, match="no row with all of image, audio; expected some"):
            train(recipe, tmp_path / "run", progress=report)
        assert stages == []
    else:  # nothing is chosen: each is scored by the rows it has
        scores = train(recipe, tmp_path / "run").evaluation
        assert [subset.modalities for subset in scores.subsets] == [("image",), ("audio",)]
    with pytest.raises(DataError, match="no row with all of image, audio"):
        tune(recipe.model_copy(update={"tune": {"training.batch_size": [4, 8]}}), trials=1)
    assert not (recipe.output / "tune").exists()


def test_the_average_of_the_weights_is_what_the_formula_says(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = WeightAverage(model, 0.5, None)
    expected = {name: tensor.double().numpy().copy() for name, tensor in model.state_dict().items()}
    state = type("State", (), {"global_step": 0})
    for step in range(8):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        model(torch.randn(4, 3))
        state.global_step = step
        average.on_optimizer_step(None, state, None)  # type: ignore[arg-type]
        decay = min(0.5, (2 + step) / (11 + step))
        for name, tensor in model.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * tensor.double().numpy()
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with average.applied():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                np.testing.assert_allclose(tensor.numpy(), expected[name], atol=1e-6)
        assert int(model.state_dict()["1.num_batches_tracked"]) == 8
    assert all(torch.equal(own[name], tensor) for name, tensor in model.state_dict().items())
    average.save(tmp_path)
    resumed = WeightAverage(model, 0.5, tmp_path)
    resumed.apply()
    np.testing.assert_allclose(model.state_dict()["0.weight"].numpy(), expected["0.weight"], atol=1e-6)


def test_the_average_is_what_is_saved_and_the_steps_are_those_without_it(with_training: Make, tmp_path: Path) -> None:
    plain = train(with_training(), tmp_path / "plain")
    averaged = train(with_training(ema=0.9), tmp_path / "averaged")
    assert averaged.losses == plain.losses
    weights = [load_checkpoint(result.output).state_dict() for result in (plain, averaged)]
    assert not torch.equal(weights[0]["head.classifier.weight"], weights[1]["head.classifier.weight"])


def test_a_batch_in_parts_has_the_gradient_of_the_whole(values_without_chance: dict[str, Any], tmp_path: Path) -> None:
    values, results = values_without_chance, []
    for parts in (1, 4):
        values["training"]["accumulate_steps"] = parts
        results.append(train(Recipe.model_validate(values), tmp_path / str(parts)))
    np.testing.assert_allclose(results[0].losses, results[1].losses, rtol=1e-4)


def test_gradient_checkpointing_changes_no_loss_and_computes_layers_again(
    values_without_chance: dict[str, Any], tmp_path: Path
) -> None:
    values = values_without_chance
    plain = train(Recipe.model_validate(values), tmp_path / "plain")
    values["training"]["gradient_checkpointing"] = True
    recipe = Recipe.model_validate(values)
    np.testing.assert_allclose(train(recipe, tmp_path / "again").losses, plain.losses, rtol=1e-6)

    model = build_model(recipe, ("high", "low"), tmp_path).train()
    calls: list[str] = []
    first = next(module for module in model.modules() if type(module).__name__ == "ASTLayer")
    first.attention.register_forward_hook(lambda *_: calls.append("forward"))
    batch = {"audio": torch.rand(2, 16, 21), "presence": torch.ones(2, 1, dtype=torch.bool)}
    model(**batch, labels=torch.tensor([0, 1])).loss.backward()
    assert calls == ["forward", "forward"]


def test_gradient_checkpointing_is_refused_where_no_encoder_can(with_training: Make) -> None:
    with pytest.raises(RecipeError, match=r"training\.gradient_checkpointing: none of cnn, temporal_cnn can"):
        train(with_training(gradient_checkpointing=True))


def test_bf16_trains_and_keeps_the_weights_in_fp32(with_training: Make, tmp_path: Path) -> None:
    plain = train(with_training(), tmp_path / "fp32")
    half = train(with_training(precision="bf16"), tmp_path / "bf16")
    assert half.losses != plain.losses
    np.testing.assert_allclose(half.losses, plain.losses, atol=0.05)
    assert all(tensor.dtype != torch.bfloat16 for tensor in load_file(half.output / "model.safetensors").values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_fp16_without_a_gpu_is_refused_by_name(with_training: Make) -> None:
    with pytest.raises(RecipeError, match=r"training\.precision: fp16 needs a GPU"):
        train(with_training(precision="fp16"))


@pytest.mark.parametrize("multi_label", [False, True])
def test_label_smoothing_spreads_its_share_over_the_classes(
    with_training: Make, tmp_path: Path, multi_label: bool
) -> None:
    values = with_training(label_smoothing=0.2).model_dump(mode="json")
    values["model"]["multi_label"] = multi_label
    model = build_model(Recipe.model_validate(values), ("high", "low"), tmp_path).eval()
    tensors = {"image": torch.rand(3, 1, 16, 16), "audio": torch.rand(3, 16, 21)}
    presence = torch.ones(3, 2, dtype=torch.bool)
    classes = torch.tensor([0, 1, 1])
    hot = nn.functional.one_hot(classes, 2).double()
    labels = hot.float() if multi_label else classes
    output = model(presence=presence, labels=labels, **tensors)
    targets = hot * 0.8 + 0.1
    logits = output.logits.double()
    if multi_label:
        log = targets * torch.sigmoid(logits).log() + (1 - targets) * torch.sigmoid(-logits).log()
        expected = -log.mean()
    else:
        expected = -(targets * torch.log_softmax(logits, dim=1)).sum(dim=1).mean()
    assert output.loss.item() == pytest.approx(expected.item(), abs=1e-6)


def test_the_loss_of_a_run_over_every_subset_is_the_models_own(
    recipe_values: dict[str, Any], values_without_chance: dict[str, Any], tmp_path: Path
) -> None:
    values = values_without_chance
    values["model"]["modalities"]["image"] = recipe_values["model"]["modalities"]["image"]
    values["training"] |= {"steps": 1, "every_subset": True}
    recipe = Recipe.model_validate(values)
    torch.manual_seed(recipe.seed)
    model, source = build_model(recipe, ("high", "low"), tmp_path).train(), stream_of(recipe)
    batch = collate([source[draw] for draw in range(8)], source.zeros)
    expected = model(**batch, every_subset=True).loss.item()
    assert train(recipe).losses == (pytest.approx(expected, rel=1e-4),)
    assert expected != pytest.approx(model(**batch).loss.item(), rel=1e-2)


def test_a_gradient_is_clipped_to_the_norm_that_is_asked_for(with_training: Make, tmp_path: Path) -> None:
    # Far below AdamW's epsilon of 1e-8, which then leaves of each step 1e-4 of the learning rate at most.
    recipe = with_training(steps=3, warmup_steps=0, learning_rate=0.01, weight_decay=0.0, gradient_clip=1e-12)
    torch.manual_seed(recipe.seed)
    before = dict(build_model(recipe, ("high", "low"), tmp_path).named_parameters())
    after = load_checkpoint(train(recipe).output)
    for name, weights in after.named_parameters():
        torch.testing.assert_close(weights, before[name], rtol=1e-6, atol=3 * 0.01 * 1e-4)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_learning_rate_follows_its_schedule(with_training: Make, schedule: str) -> None:
    recipe = with_training(schedule=schedule, steps=12, warmup_steps=4, learning_rate=0.01)
    result = train(recipe)
    rates = scalars(result.output)["train/learning_rate"]
    after = np.arange(8) / 8
    falling = {"cosine": (1 + np.cos(np.pi * after)) / 2, "linear": 1 - after, "constant": np.ones(8)}[schedule]
    expected = 0.01 * np.concatenate([np.arange(4) / 4, falling])
    np.testing.assert_allclose([rates[step] for step in range(1, 13)], expected, rtol=1e-5, atol=1e-9)


def scalars(output: Path) -> dict[str, dict[int, float]]:
    events = EventAccumulator(str(output / "tensorboard")).Reload()
    return {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def test_tensorboard_shows_each_step_once_and_each_evaluation(with_training: Make, tmp_path: Path) -> None:
    recipe = with_training(steps=9, evaluate_every=4, checkpoint_every=4)
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "run", progress=stop_at(7))
    result = train(recipe, tmp_path / "run", resume=True)
    shown = scalars(result.output)
    np.testing.assert_allclose(list(shown["train/loss"].values()), result.losses, rtol=1e-6)
    for tag in ("train/loss", "train/learning_rate", "train/grad_norm"):
        assert list(shown[tag]) == list(range(1, 10))
    for subset in ("image", "audio", "image+audio"):
        assert list(shown[f"eval/{subset}_accuracy"]) == [4, 8, 9]


def test_norms_and_biases_do_not_decay(recipe: Recipe, tmp_path: Path) -> None:
    model = build_model(recipe, ("high", "low"), tmp_path)
    decaying = set(FusedTrainer.get_decay_parameter_names(None, model))  # type: ignore[arg-type]
    for path, module in model.named_modules():
        for name, _ in module.named_parameters(recurse=False):
            norm = isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm))
            assert (f"{path}.{name}" in decaying) == (not norm and name != "bias")


# ---- What is no number -----------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_names_the_step_the_rows_and_the_checkpoint(
    with_training: Make, tmp_path: Path
) -> None:
    recipe = with_training(checkpoint_every=3)

    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "run", progress=stop_at(5))
    checkpoint = tmp_path / "run" / "checkpoints" / "checkpoint-3"
    weights = load_file(checkpoint / "model.safetensors")
    weights["head.classifier.bias"][0] = float("nan")
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingError) as caught:
        train(recipe, tmp_path / "run", resume=True)
    message = str(caught.value)
    assert message.startswith("step 4 has a loss of nan; the last good checkpoint is ")
    assert "checkpoint-3" in message
    source = stream_of(recipe)
    rows = [source.sample(draw) for draw in range(3 * 8, 4 * 8)]
    for row in rows:
        assert f"line {row.line}: {', '.join(map(str, row.files.values()))}" in message
    assert message.count("\n") == 1 + len(rows)
    assert checkpoint.is_dir()
    assert not (tmp_path / "run" / "model.safetensors").exists()


def stream_of(recipe: Recipe) -> TrainingStream:
    from mmedge.training.build import read_data

    samples, _, labels = read_data(recipe)
    parts = recipe.model.modalities
    return TrainingStream(samples, labels, recipe, {name: getattr(parts, name).preprocess for name in parts.names})


def test_weights_that_are_no_numbers_are_never_written_and_the_run_can_be_resumed_before_them(
    with_training: Make, tmp_path: Path
) -> None:
    # Loss and gradient are finite, but the step is not.
    recipe = with_training(learning_rate=3e38, warmup_steps=0, checkpoint_every=1, schedule="constant")
    with pytest.raises(TrainingError, match=r"step 1 left weights .* no checkpoint was written before it"):
        train(recipe, tmp_path / "run")
    assert last_checkpoint(tmp_path / "run" / "checkpoints") is None


def test_a_gradient_that_is_no_number_stops_the_run(recipe: Recipe, tmp_path: Path) -> None:
    model = build_model(recipe, ("high", "low"), tmp_path)
    # Finite forwards, infinite backwards.
    model.head.classifier.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(TrainingError, match=r"step 1 has a gradient of norm (nan|inf)"):
        trainer_of(recipe, model, stream_of(recipe), tmp_path).train()


def trainer_of(recipe: Recipe, model: FusedModel, source: TrainingStream, folder: Path) -> FusedTrainer:
    return FusedTrainer(
        model=model,
        args=_arguments(recipe, folder / "checkpoints"),
        train_dataset=source,
        data_collator=lambda items: collate(items, source.zeros),
        every_subset=False,
        average=None,
        evaluation=None,
        scored=None,
    )


def test_a_file_that_is_damaged_during_training_is_named_in_one_line(
    recipe: Recipe, tones: Path, tmp_path: Path
) -> None:
    recipe = recipe.model_copy(update={"data": tmp_path / "tones"})
    shutil.copytree(tones, recipe.data)
    trainer = trainer_of(recipe, build_model(recipe, ("high", "low"), tmp_path), stream_of(recipe), tmp_path)
    assert trainer.args.dataloader_num_workers > 0
    (recipe.data / "train" / "5.wav").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        trainer.train()
    assert re.fullmatch(r"train/metadata\.jsonl, line 6: \S+5\.wav: not a readable audio file: .*", str(caught.value))


def test_the_command_ends_with_the_error_and_a_code(with_training: Make, tmp_path: Path) -> None:
    values = json.loads(with_training(learning_rate=3e38, warmup_steps=0, checkpoint_every=1).model_dump_json())
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    done = CliRunner().invoke(cli, ["train", str(tmp_path / "recipe.yaml")])
    assert done.exit_code == 2
    assert "mmedge: step 1 left weights that are no finite numbers" in done.stderr
    assert done.stdout == ""
