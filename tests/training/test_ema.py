"""The averaged weights are validated, saved and continued."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import pixelwise as pw
from pixelwise.training import Recipe, TrainingModule, resume, run
from pixelwise.types import Batch

MakeRecipe = Callable[..., Recipe]


def test_the_average_of_the_weights_after_each_step_is_saved(
    tiny: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[dict[str, torch.Tensor]] = []
    step = TrainingModule.optimizer_step

    def noted(self: TrainingModule, *args: Any, **kwargs: Any) -> None:
        if not states:
            states.append({name: value.clone() for name, value in self.model.state_dict().items()})
        step(self, *args, **kwargs)
        states.append({name: value.clone() for name, value in self.model.state_dict().items()})

    monkeypatch.setattr(TrainingModule, "optimizer_step", noted)
    result = run(tiny(ema=0.3, epochs=1, accumulate=1, freeze=["encoder"]), progress=False, report=False)
    saved = load_file(result.last)
    name = "head.2.weight"
    expected = states[0][name]
    for number, state in enumerate(states[1:], 1):
        decay = min(0.3, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * state[name]
    torch.testing.assert_close(saved[name], expected)
    assert not torch.allclose(saved[name], states[-1][name])
    kept = torch.load(result.path / "last.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(kept[f"model.{name}"], states[-1][name])


def test_what_is_validated_is_what_is_saved_as_best(tiny: MakeRecipe) -> None:
    result = run(tiny(ema=0.9, lr=0.03), progress=False, report=False)
    scored = pw.evaluate(result.best, result.recipe.data, progress=False)
    assert scored.confusion.equal(result.scores.confusion)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_with_an_average_continues_exactly(
    tiny: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    recipe = tiny(ema=0.9, epochs=3, accumulate=accumulate)
    expected = run(recipe.changed(out=tmp_path / "whole"), progress=False, report=False)
    step, pending = TrainingModule.training_step, [True]

    def interrupted(self: TrainingModule, data: Batch, batch_idx: int) -> Any:
        if pending and (self.current_epoch, batch_idx) == (1, 1):
            pending.clear()
            raise KeyboardInterrupt
        return step(self, data, batch_idx)

    monkeypatch.setattr(TrainingModule, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, progress=False, report=False)
    path = resume(tmp_path / "run", progress=False, report=False).path
    for name in ("last.safetensors", "best.safetensors"):
        assert (path / name).read_bytes() == (expected.path / name).read_bytes()
