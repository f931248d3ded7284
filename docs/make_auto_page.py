"""Write docs/auto.md: what `train` decides and why, from the table of rules itself."""

from pathlib import Path

from pixelwise.planning import Rule
from pixelwise.tasks import TASKS

HEAD = """# What `train` decides and why

Made by `make docs` from the rules themselves.

```bash
pixelwise plan my_folder --budget 20m
pixelwise train my_folder --budget 20m
```

`train` looks at the data, measures real training steps of some networks on this machine, decides, and
ends on time: the budget counts from the command to the report. `plan` prints the same decisions with
their reasons and stops; `--json` gives them with all facts. Without `--budget` it is 20 minutes.

- **What you give wins**: every option of `train` stays as it is given, and later rules see it.
- `--budget none` takes the rules without a deadline. `--epochs`, `--steps` or `--config` without a
  budget take the plain defaults of `pixelwise train --help`, as does `--no-plan`: a U-Net of width 16 where
  no model is named, batches of 8, crops of 256 x 256.
- The run directory keeps the facts, choices and reasons in `plan.json`, and plain settings in
  `recipe.json`: `pixelwise train --config RUN/recipe.json --out ANOTHER` repeats the training bit for
  bit (on a CPU), without a plan and without a clock.
- The clock never touches the learning rate: a few times it changes how many steps the training is to
  have, the rate falls to 0 in the last one, and each change is kept in the recipe.
- `--folds 5` divides the time: each model takes an equal part of what is left when it begins.
- Test-time settings are tried for half more than the time that this should take, a twentieth of all at
  most, on as many images as fit into it; tasks that offer none keep no time for them.
- The time that is kept for scores and report grows where the machine becomes slower on the way; where it
  does not suffice, nothing is tried and fewer images are scored.
- Ctrl-C keeps the best weights so far; `pixelwise train --resume RUN` goes on with the time that is
  left.
- A budget that is too small says what would suffice.
- One device: with `--devices`, give `--epochs` or `--steps`.

## What is looked at

Of the data, within 3 % of the time: sizes, channels (grey stored as RGB is grey), shares of the classes,
thickness and areas of their regions, images without foreground, labels that number objects, sequences
(neighbours by name correlate more than in any of 200 random orders, by 0.1), near-duplicates, images
that belong together by name, and whether images and labels can be told from their upside-down mirror
image. Of the machine, within 5 % of the time: device, cores, free memory, bfloat16, and seconds per step
of the ladder, small to large, as long as there is hope for the next rung.

**Free orientation**: the mean label map differs from its mirror by less than 0.15, structures of half of the
images lie no more than that farther from the mirror images of the others than from these, and a classifier
tells fewer than 65 % of the images from their mirror image; where a sequence or fewer than 40
independent images make that test void, only images of one channel or of more than three are free. In
doubt, images have an up.

## The rules
"""


def page() -> str:
    """The text of the page."""
    parts: list[str] = []
    told: dict[tuple[Rule, ...], str] = {}
    for task in TASKS.values():
        if task.planning is None:
            continue
        parts += ["", f"### {task.name}", "", f"**Ladder.** {task.planning.text}", ""]
        same = told.get(task.planning.rules)
        if same is not None:
            parts.append(f"The rules are those of {same}.")
            continue
        told[task.planning.rules] = task.name
        parts += ["| choice | settings | rule |", "|---|---|---|"]
        for rule in task.planning.rules:
            settings = ", ".join(f"`{name}`" for name in rule.settings)
            parts.append(f"| {rule.name} | {settings} | {rule.text} |")
    rest = [name for name, task in TASKS.items() if task.planning is None]
    if rest:
        parts += ["", f"Not planned: {', '.join(rest)}; give `--model` and `--epochs` there."]
    return HEAD + "\n".join(parts) + "\n"


def main() -> None:
    """Write the page."""
    (Path(__file__).parent / "auto.md").write_text(page())


if __name__ == "__main__":
    main()
