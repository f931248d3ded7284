"""The rules that several tasks share: each a plain function of the situation and of what was chosen before.

The texts in the table at the end of this file are what docs/auto.md says of the rules.
"""

import math
import random
from collections.abc import Iterable
from typing import Any

from ..wording import counted
from .budget import told_seconds
from .data_facts import GROUPS_TO_TELL, UPRIGHT_IMAGES, UPRIGHT_LABELS, DataFacts
from .machine_facts import Probe
from .rule import Choice, Chosen, Rule, Situation

STEPS, STEPS_GPU = 400, 2000  # optimiser steps that a training should have at least
MOST_VIEWS = 1000  # times that each training pixel is seen, at most
LARGER_STEPS, LARGER_VIEWS = 1000, 40  # that a network must leave itself where a smaller one could be taken
SLOWER = 1.2  # how much longer a step of the next larger network takes at least
BATCH = 4  # images per step that batch norm needs at least
EPOCHS = 12  # pieces into which a training with a budget is cut; a checkpoint ends each
BETWEEN = 3  # pieces between two validations
THICK, THIN = 64.0, 3.0  # pixels: thicker regions are seen smaller, as long as none gets thinner
SMALL, MOST_REDUCED = 32, 8  # least side of the smallest image as it is seen; and the largest divisor
VAL_SHARE, VAL_LEAST, VAL_MOST = 0.2, 3, 200
TEST_SHARE, TEST_GROUPS = 0.15, 100  # of images for the score, where there are so many independent groups
CLOSING = 200  # images that are scored and looked at after the training, at most
PICTURES = 6  # predictions that the report shows
CHOICES_TIME = 0.05  # share of the time in which test-time settings are chosen, at most
CHOICES = 100  # images on which they are, at most
VAL_TIME = 0.1  # share of the time that validations and the report's predictions may take
WARMUP = 0.08
RANGE_PASSES, RANGE_BATCHES = 10, 6  # of the range test of the learning rate: at one rate each
RANGE_STEPS = RANGE_PASSES * RANGE_BATCHES
RANGE_SHARE, RANGE_BUDGET = 0.03, 600.0  # of the time that it may take; seconds below which there is none
RANGE_SECONDS = 60.0  # that it may take without a deadline
MARGIN, MOST_LOWERED = (
    4.0,
    10.0,
)  # the rate stays that far below where the loss turns; is lowered at most so far
PLACED = 0.05  # of mean IoU that the place alone must be worth
FACTOR = 1.1  # how much faster lower precision must be to be taken


# --- what follows from the data ---------------------------------------------------------------------


def masks(situation: Situation, chosen: Chosen) -> Choice | None:
    """How masks are read."""
    data = situation.data
    if data.mask_rule == "exact":
        return None
    reason = "mask values number objects or are no classes: background and foreground are learnt"
    return Choice({"mask_rule": data.mask_rule}, reason)


def split(situation: Situation, chosen: Chosen) -> Choice | None:
    """Which images validate, and on which ones nothing is chosen."""
    data, given = situation.data, {"val_fraction", "test_fraction"} & set(chosen)
    if given or len(data.names) < 2:
        return None
    if data.val:
        warning = (
            f"; {data.crossing} of its images are almost in the training part too" if data.crossing else ""
        )
        return Choice({}, f"given by the data set{warning}", f"{data.val} images")
    folds = chosen.get("folds")
    groups = data.train if data.sequence else data.groups
    tested = round(TEST_SHARE * data.train) if groups >= TEST_GROUPS else 0
    count = 0 if folds else min(max(round(VAL_SHARE * data.train), VAL_LEAST), VAL_MOST, data.train // 2)
    test: tuple[str, ...]
    val: tuple[str, ...]
    if data.sequence:
        gap = data.gap if data.train >= 50 else 0
        rest, between, test = _last_block(data.names, tested, gap)
        _, before, val = _last_block(rest, count, gap)
        out = (*before, *between)
        reason = (
            f"neighbouring images correlate {data.neighbours:.2f}, in random order at most "
            f"{data.random_order:.2f}: a sequence, so its last block"
            + (f", after a gap of {counted(gap, 'image')}" if gap else "")
        )
    else:
        seed, every = chosen.get("seed", 0), range(len(data.names))
        test = _random_groups(data, every, tested, seed) if tested else ()
        remaining = [i for i in every if data.names[i] not in set(test)]
        val = _random_groups(data, remaining, count, seed) if count else ()
        out = ()
        reason = f"no sequence: at random; {counted(data.groups, 'group')} of related images, never split"
    shown = [f"{folds} folds" if folds else f"{len(val)} images"]
    if test:
        shown.append(f"{len(test)} more for the score, on which nothing is chosen")
    settings = {"val_images": val, "test_images": test, "left_out": out}
    return Choice(settings, reason, ", ".join(shown))


def _last_block(
    names: tuple[str, ...], count: int, gap: int
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """What comes before the gap, the gap, and the last names."""
    if not count:
        return names, (), ()
    end = len(names) - count
    return names[: end - gap], names[end - gap : end], names[end:]


def _random_groups(data: DataFacts, indices: Iterable[int], count: int, seed: int) -> tuple[str, ...]:
    """Whole groups with about `count` images; of 20 draws the one that shows most classes on both sides."""
    indices = list(indices)
    groups: dict[int, list[int]] = {}
    for index in indices:
        groups.setdefault(data.group_of[index] if data.group_of else index, []).append(index)
    if len(groups) < 2:
        groups = {index: [index] for index in indices}
    draw, most = random.Random(seed), -1.0
    best: list[int] = []
    for _ in range(20):
        order: list[list[int]] = list(groups.values())
        taken: list[int] = []
        draw.shuffle(order)
        for members in order:
            if taken and len(taken) + len(members) > count:
                continue
            if len(taken) + len(members) < len(indices):
                taken += members
        inside, shown = set(taken), [(i, data.shown[i]) for i in indices if data.shown]
        on_both = [{c for i, s in shown if (i in inside) == side for c in s} for side in (True, False)]
        score = len(on_both[0] & on_both[1]) - abs(len(taken) - count) / len(indices)
        if score > most:
            best, most = taken, score
    return tuple(data.names[i] for i in sorted(best))


def reduce(situation: Situation, chosen: Chosen) -> Choice | None:
    """By what sides of images are divided before the network sees them."""
    data, factor = situation.data, 1
    if math.isnan(data.thickest):
        return None
    while data.thickest / factor > THICK and _may_halve(data, factor):
        factor *= 2
    if factor == 1:
        return None
    return Choice({"reduce": factor}, _thickness(data, factor), f"1/{factor} of the sides")


def _may_halve(data: DataFacts, factor: int) -> bool:
    """Whether images that are seen at 1/factor leave something to see at half of that."""
    small = min(data.smallest or data.size) / (2 * factor)
    return factor < MOST_REDUCED and data.thinnest / (2 * factor) >= THIN and small >= SMALL


def _thickness(data: DataFacts, factor: int) -> str:
    return f"regions are {data.thinnest / factor:.0f} to {data.thickest / factor:.0f} pixels thick there"


def crop(situation: Situation, chosen: Chosen) -> Choice:
    """Size of the training crops."""
    data = situation.data
    most = 512 * int(chosen.get("reduce", 1))
    scene = len(data.classes) > 3 or math.isnan(data.thickest)
    wanted = most if scene else min(max(_up(12 * data.thickest), 160), most)
    height, width = (max(32, min(_up(side), wanted)) for side in data.size)
    why = f"a scene: the whole image, at most {most}" if scene else f"12 x {data.thickest:.0f} pixels"
    if data.free:
        height = width = min(height, width)
        why += ", square because orientation is free"
    return Choice({"crop": (height, width)}, f"{why}; the median image has {_x(data.size)}")


def _up(side: float, multiple: int = 32) -> int:
    return math.ceil(side / multiple) * multiple


def _x(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))


def loss(situation: Situation, chosen: Chosen) -> Choice:
    """The loss."""
    data = situation.data
    if len(data.classes) > 20:
        return Choice({"loss": "cross_entropy"}, f"{len(data.classes)} classes, more than 20")
    if data.empty > 0.3:
        return Choice({"loss": "cross_entropy"}, f"{data.empty:.0%} of the images have no foreground")
    return Choice({"loss": "cross_entropy+dice"}, "robust on most data sets")


def class_weights(situation: Situation, chosen: Chosen) -> Choice | None:
    """Weights of the classes in the loss."""
    data = situation.data
    shares = [one.share for one in data.classes]
    seen = [share for share in shares if share > 0]
    if not data.exclusive or len(seen) < 2 or min(seen) >= 0.01:
        return None
    middle = sorted(seen)[len(seen) // 2]
    raw = [min(max(math.sqrt(middle / share), 0.5), 4.0) if share > 0 else 1.0 for share in shares]
    mean = sum(w * s for w, s in zip(raw, shares, strict=True))
    weights = tuple(round(w / mean, 3) for w in raw)
    rarest = min((one for one in data.classes if one.share > 0), key=lambda one: one.share)
    reason = f"{rarest.name} has {rarest.share:.2%} of the pixels: sqrt(median share / share)"
    return Choice({"class_weights": weights}, reason, f"{min(weights):.2g} to {max(weights):.2g}")


def rare_crops(situation: Situation, chosen: Chosen) -> Choice | None:
    """Whether crops look for rare classes."""
    data, size = situation.data, chosen.get("crop")
    if size is None or not data.pixels:
        return None
    part = min(1.0, math.prod(size) / max(1, math.prod(data.size)))
    chance = {one.name: one.images * part for one in data.classes if one.share > 0}
    # A class that fills a share s of the images that show it cannot hide in fewer than s of the crops.
    for one in data.classes:
        if one.share > 0:
            chance[one.name] = max(chance[one.name], min(1.0, one.share))
    rare = min(chance, key=lambda name: chance[name], default="")
    if not rare or chance[rare] >= 0.1:
        return None
    reason = f"{rare} is in about {chance[rare]:.0%} of random crops, fewer than 10 %"
    return Choice({"rare_crops": 0.33}, reason)


def flips(situation: Situation, chosen: Chosen) -> Choice:
    """Which mirrors and turns the data allow."""
    data = situation.data
    if data.sides:
        still = {"flip": 0.0, "flip_vertical": 0.0, "rotate90": 0.0}
        return Choice(still, "class names speak of sides or of text", "none")
    facts = f"upside down, the mean label map differs by {data.mirrored:.3f} (upright from {UPRIGHT_LABELS})"
    if data.independent < GROUPS_TO_TELL:
        facts += f"; too few independent images to test the images: {data.independent}"
    elif not math.isnan(data.told_apart):
        facts += f"; {data.told_apart:.0%} of the images are recognised (upright from {UPRIGHT_IMAGES:.0%})"
    sided = data.sideways >= UPRIGHT_LABELS and data.channels != 3
    if sided:
        facts += f"; left to right, structures lie elsewhere by {data.sideways:.3f}"
    size = chosen.get("crop")
    square = size is not None and len(set(size)) == 1
    settings = {
        "flip": 0.0 if sided else 0.5,
        "flip_vertical": 0.5 if data.free else 0.0,
        "rotate90": 0.5 if data.free and square and not sided else 0.0,
    }
    names = {"flip": "horizontal", "flip_vertical": "vertical", "rotate90": "quarter turns"}
    shown = ", ".join(told for name, told in names.items() if settings[name]) or "none"
    return Choice(settings, f"{facts}: no up or down" if data.free else facts, shown)


def location_prior(situation: Situation, chosen: Chosen) -> Choice | None:
    """Whether how common classes are at each place is added to the scores."""
    data = situation.data
    if math.isnan(data.placed) or data.placed < PLACED:
        return None
    reason = (
        f"the commonest class at each place has {data.placed:.2f} more mean IoU than one class everywhere"
    )
    return Choice({"location_prior": True}, f"{reason} (wanted: {PLACED})", "yes")


def scale(situation: Situation, chosen: Chosen) -> Choice:
    """Range of the random scale."""
    spread = math.sqrt(max(1.0, situation.data.spread))
    low, high = max(0.5, min(0.7, 1 / spread)), min(2.0, max(1.4, spread))
    reason = f"region thickness varies by a factor of {situation.data.spread:.1f} between images"
    return Choice({"scale": (round(low, 2), round(high, 2))}, reason, f"{low:.2g} to {high:.2g}")


# --- what follows from the speed of the machine -----------------------------------------------------


def seconds_per_step(situation: Situation, probe: Probe, chosen: Chosen, batch: int) -> float:
    """Of a batch of that size and of crops as they were chosen, its loading included."""
    step = probe.seconds * _work(probe, chosen) * batch / probe.batch
    loading = probe.loading * batch
    cores = max(1, situation.machine.cores)
    return step + loading / cores if situation.machine.device == "cpu" else max(step, loading / cores)


def _work(probe: Probe, chosen: Chosen) -> float:
    """Pixels that the network sees per image, over those of the probe."""
    crop = chosen.get("crop")
    smaller = math.prod(crop) / math.prod(probe.crop) if crop and probe.crop else 1.0
    return smaller * (probe.reduce / int(chosen.get("reduce", 1))) ** (len(probe.crop) or 2)


def seconds_of_validation(situation: Situation, probe: Probe, chosen: Chosen) -> float:
    """Of one pass over the validation images."""
    return probe.validation * len(_val_names(situation, chosen))


def images_per_step(chosen: Chosen) -> int:
    """Images whose gradients make one step of the optimiser."""
    return int(chosen.get("batch_size", BATCH)) * int(chosen.get("accumulate", 1))


def trainings(chosen: Chosen) -> int:
    """How many models divide the time."""
    return int(chosen.get("folds") or 1)


def _scored(situation: Situation, chosen: Chosen) -> int:
    """Images that are scored after the training; those of folds are scored when the folds are joined."""
    if chosen.get("folds"):
        return 0
    return min(len(chosen.get("test_images") or _val_names(situation, chosen)), CLOSING)


def seconds_of_scoring(situation: Situation, probe: Probe, chosen: Chosen) -> float:
    """Of the scores after a training: images are predicted once."""
    return _scored(situation, chosen) * probe.validation


def seconds_of_report(situation: Situation, probe: Probe, chosen: Chosen) -> float:
    """Of the report after that: charts, pictures of a few images, and a look at the training images."""
    looked_at = min(situation.data.train, CLOSING) + _scored(situation, chosen)
    return situation.report + PICTURES * probe.validation + looked_at * probe.loading


def seconds_of_choices(situation: Situation, probe: Probe, chosen: Chosen) -> float:
    """What may be spent on choosing test-time settings: half more than it should take, and not too much."""
    if not chosen.get("choose", True):
        return 0.0
    of_folds = chosen.get("folds") and situation.data.train + situation.data.val
    images = min(of_folds or len(_val_names(situation, chosen)), CHOICES)
    expected = situation.passes_of_choices * images * probe.validation
    return min(1.5 * expected, CHOICES_TIME * (situation.budget or 0.0))


def seconds_of_joining(situation: Situation, chosen: Chosen) -> float:
    """Of the scores of the models of all folds."""
    probe, data = situation.probe(chosen), situation.data
    if probe is None or not chosen.get("folds"):
        return 0.0
    tested = trainings(chosen) * min(len(chosen.get("test_images") or ()), CLOSING)
    return (data.train + data.val + tested) * (probe.validation + probe.loading)


def steps_in(situation: Situation, probe: Probe, chosen: Chosen, batch: int | None = None) -> int:
    """Steps that the time allows; in a budget of none, those of 50 epochs or of the length that is given."""
    batch = batch or images_per_step(chosen)
    data = situation.data
    per_epoch = max(1, math.ceil(data.train / batch))
    if chosen.get("steps"):
        return int(chosen["steps"])
    if chosen.get("epochs") or situation.left is None:
        return int(chosen.get("epochs") or 50) * per_epoch
    count = trainings(chosen)
    validations = 2 * seconds_of_validation(situation, probe, chosen)
    validations = min(validations, VAL_TIME * (situation.budget or 0.0) / count)
    once = seconds_of_choices(situation, probe, chosen) + seconds_of_joining(situation, chosen)
    after = seconds_of_scoring(situation, probe, chosen) + seconds_of_report(situation, probe, chosen)
    left = (situation.left - once - after) / count - validations
    return max(0, int(left / max(1e-6, seconds_per_step(situation, probe, chosen, batch))))


def views_in(situation: Situation, chosen: Chosen, steps: int, batch: int) -> float:
    """How often each training pixel is seen in so many steps."""
    size, data = chosen.get("crop"), situation.data
    if size is None:
        return steps * batch / max(1, data.train)
    part = min(1.0, math.prod(size) / max(1, math.prod(data.size)))
    return steps * batch * part / max(1, data.train)


def _times(views: float) -> str:
    """How often a pixel is seen, as people read it."""
    return f"{views:.0f} times" if views >= 10 else f"{views:.2g} times"


def may_climb(situation: Situation, probe: Probe, chosen: Chosen) -> bool:
    """Whether a network leaves so much time that the next larger one may do too."""
    if situation.left is None:
        return True
    batch = images_per_step(chosen)
    steps = steps_in(situation, probe, chosen, batch)
    views = views_in(situation, chosen, steps, batch)
    return min(steps / LARGER_STEPS, views / LARGER_VIEWS) >= SLOWER


def model(situation: Situation, chosen: Chosen) -> Choice:
    """The network."""
    ladder = situation.ladder
    batch = images_per_step(chosen)
    told: list[str] = []
    best = ladder[0] if situation.left is not None else ladder[len(ladder) // 2]
    for rung in ladder:
        probe = situation.probe({**chosen, "rung": rung.name})
        if probe is None or situation.left is None:
            continue
        steps = steps_in(situation, probe, chosen, batch)
        views = views_in(situation, chosen, steps, batch)
        told.append(f"{rung.name}: {counted(steps, 'step')}, each pixel seen {_times(views)}")
        if steps >= LARGER_STEPS and views >= LARGER_VIEWS:
            best = rung
    wanted = f"wanted of a larger one: {LARGER_STEPS} steps, {LARGER_VIEWS} times"
    reason = "; ".join([*told, wanted]) if told else "no deadline: the middle of the ladder"
    settings: dict[str, Any] = {
        "model": best.model,
        "model_arguments": dict(best.arguments),
        "rung": best.name,
    }
    return Choice(settings, reason, best.name)


def reduce_more(situation: Situation, chosen: Chosen) -> Choice | None:
    """Smaller images where time is short."""
    probe, data = situation.probe(chosen), situation.data
    if probe is None or situation.left is None or chosen.get("epochs") or chosen.get("steps"):
        return None
    factor = int(chosen.get("reduce", 1))
    steps = steps_in(situation, probe, chosen)
    if factor == 1 or steps >= STEPS:
        return None
    more = factor
    while _may_halve(data, more) and steps_in(situation, probe, {**chosen, "reduce": more}) < STEPS:
        more *= 2
    if more == factor:
        return None
    reason = f"1/{factor} would leave {steps} steps, {STEPS} are wanted; {_thickness(data, more)}"
    return Choice({"reduce": more}, reason, f"1/{more} of the sides")


def smaller_crop(situation: Situation, chosen: Chosen) -> Choice | None:
    """Smaller crops where time is short."""
    probe, size = situation.probe(chosen), chosen.get("crop")
    if probe is None or size is None or situation.left is None or chosen.get("epochs") or chosen.get("steps"):
        return None
    steps = steps_in(situation, probe, chosen)
    if steps >= STEPS or min(size) <= 128:
        return None
    shrink = max(0.5, math.sqrt(max(1, steps) / STEPS), 128 / min(size))
    smaller = tuple(max(32, round(side * shrink / 32) * 32) for side in size)
    if smaller == tuple(size):
        return None
    return Choice({"crop": smaller}, f"{_x(size)} would leave {steps} steps, {STEPS} are wanted")


def batch(situation: Situation, chosen: Chosen) -> Choice:
    """Images per step."""
    name, least = chosen.get("rung", ""), STEPS if situation.machine.device == "cpu" else STEPS_GPU
    probes = {
        one.batch: one
        for one in situation.machine.probes
        if one.rung == name and one.precision == chosen.get("precision", one.precision)
    }
    if probes and max(probes) < BATCH and "batch_size" not in chosen:
        count = max(probes)
        reason = f"the memory holds no more: {BATCH // count} batches make a step"
        return Choice({"batch_size": count, "accumulate": BATCH // count}, reason)
    size, times = chosen.get("crop"), int(chosen.get("accumulate", 1))
    pixels = math.prod(size) if size else math.prod(situation.data.size)
    allowed = {
        count: count / probe.seconds
        for count, probe in probes.items()
        if count == BATCH
        or (
            count > BATCH
            and steps_in(situation, probe, chosen, count * times) >= least
            and count * pixels <= 0.05 * situation.data.pixels
        )
    }
    given = {"accumulate": times} if "accumulate" in chosen else {}
    if len(allowed) < 2:
        return Choice(
            {"batch_size": BATCH, **given}, "larger ones would leave too few steps or too little variety"
        )
    most = max(allowed.values())
    count = min(count for count, rate in allowed.items() if rate >= 0.9 * most)
    told = ", ".join(f"{rate:.1f} with {count}" for count, rate in sorted(allowed.items()))
    return Choice({"batch_size": count, **given}, f"images per second: {told}")


def precision(situation: Situation, chosen: Chosen) -> Choice:
    """Precision of the computation."""
    machine = situation.machine
    full, half = (
        next((one for one in machine.probes if one.precision == name), None) for name in ("32", "bf16")
    )
    if not machine.bf16:
        return Choice({"precision": "32"}, "the machine has no bfloat16")
    if full is None or half is None:
        return Choice({"precision": "bf16" if machine.device == "cuda" else "32"}, "not measured")
    gain = (full.seconds / full.batch) / (half.seconds / half.batch)
    reason = f"bfloat16 makes a step {gain:.2f} times as fast (needed: {FACTOR})"
    return Choice({"precision": "bf16" if gain >= FACTOR else "32"}, reason)


def lr(situation: Situation, chosen: Chosen) -> Choice:
    """The highest learning rate."""
    count = images_per_step(chosen)
    if chosen.get("optimizer") == "sgd":
        return Choice({"lr": 0.01}, "SGD, which is given, takes larger steps")
    if chosen.get("model_arguments", {}).get("pretrained"):
        groups = max(1, situation.data.independent)
        rate = 5e-4 * min(1.0, math.sqrt(groups / 100))
        reason = f"published weights, {groups} groups of images; the encoder a fifth"
        return Choice({"lr": _rounded(rate), "encoder_lr_factor": 0.2}, reason)
    rate = min(4e-3, 2e-3 * math.sqrt(count / BATCH))
    return Choice({"lr": _rounded(rate)}, f"random weights: 0.002 x sqrt({count}/4), at most 0.004")


def _rounded(number: float) -> float:
    return float(f"{number:.3g}")


def seconds_of_range_test(situation: Situation, probe: Probe, chosen: Chosen) -> float:
    """Of its steps, and of its batches, which are loaded once."""
    count = int(chosen.get("batch_size", BATCH))
    step = probe.seconds * _work(probe, chosen) / probe.batch
    return count * (RANGE_STEPS * step + RANGE_BATCHES * probe.loading)


def no_range_test(situation: Situation, chosen: Chosen) -> str:
    """Why a range test is not worth its time; "" where it is."""
    probe, budget = situation.probe(chosen), situation.budget
    if budget is not None and budget < RANGE_BUDGET:
        return f"the budget is less than {told_seconds(RANGE_BUDGET)}"
    if probe is None:
        return "not measured"
    seconds = seconds_of_range_test(situation, probe, chosen)
    most = RANGE_SECONDS if budget is None else RANGE_SHARE * budget
    if seconds > most:
        return f"{RANGE_STEPS} steps take {told_seconds(seconds)}, at most {told_seconds(most)} wanted"
    return ""


def range_test(situation: Situation, chosen: Chosen) -> Choice | None:
    """A lower learning rate where the loss turns near the planned one."""
    test, planned = situation.range_test, float(chosen["lr"])
    if test is None:
        return None
    if test.skipped:
        return Choice({"lr": planned}, test.skipped, "skipped")
    if math.isinf(test.turn):
        return Choice({"lr": planned}, f"the loss falls up to {test.highest:.2g}", "the rate stays")
    limit = test.turn / MARGIN
    turns = f"the loss turns at {test.turn:.2g}"
    if limit >= planned:
        return Choice({"lr": planned}, f"{turns}, more than {MARGIN:.0f} times the rate", "the rate stays")
    rate = _rounded(max(limit, planned / MOST_LOWERED))
    part = "a quarter of that" if limit >= planned / MOST_LOWERED else "a tenth of the rate"
    return Choice({"lr": rate}, f"{turns}: {part}", f"lower the rate to {rate:.3g}")


def length(situation: Situation, chosen: Chosen) -> Choice:
    """Number of steps and their schedule."""
    count = images_per_step(chosen)
    probe = situation.probe(chosen)
    if chosen.get("steps") or chosen.get("epochs") or situation.left is None or probe is None:
        per_epoch = max(1, math.ceil(situation.data.train / count))
        steps = int(chosen.get("steps") or int(chosen.get("epochs") or 50) * per_epoch)
        settings = {"schedule": "linear", "warmup_steps": max(1, round(WARMUP * steps))}
        if not chosen.get("steps"):
            settings["epochs"] = int(chosen.get("epochs") or 50)
        return Choice(settings, "no deadline", f"{steps} steps")
    steps = max(1, min(steps_in(situation, probe, chosen), most_steps(situation, chosen)))
    epochs = min(EPOCHS, steps)
    per_step = seconds_per_step(situation, probe, chosen, count)
    settings = {
        "steps": steps,
        "schedule": "linear",
        "warmup_steps": max(1, round(WARMUP * steps)),
        "images_per_epoch": math.ceil(steps / epochs) * count,
    }
    views = views_in(situation, chosen, steps, count)
    reason = f"{told_seconds(per_step)} per step; each training pixel is seen {_times(views)}"
    return Choice(settings, reason, f"{steps} steps")


def most_steps(situation: Situation, chosen: Chosen) -> int:
    """Steps after which each training pixel was seen 1000 times."""
    in_one = views_in(situation, chosen, 1, images_per_step(chosen))
    return max(STEPS, math.ceil(MOST_VIEWS / max(1e-9, in_one)))


def color(situation: Situation, chosen: Chosen) -> Choice:
    """Strength of changes of colour and shape."""
    data, probe = situation.data, situation.probe(chosen)
    strength = 0.4 if data.channels == 3 and not data.free else 0.25
    settings: dict[str, Any] = {"color": strength}
    reason = "photographs" if strength == 0.4 else "no photographs"
    if probe is not None and situation.left is not None:
        views = views_in(situation, chosen, steps_in(situation, probe, chosen), images_per_step(chosen))
        if views < 10:
            settings["color"] = strength / 2
            reason += f", half strength as each pixel is seen {_times(views)} only"
        elif views > 200 and data.free:
            settings |= {"rotation": 15.0, "elastic": 4.0}
            reason += f"; rotation and elastic deformation too, as each pixel is seen {_times(views)}"
    return Choice(settings, reason)


def ema(situation: Situation, chosen: Chosen) -> Choice:
    """Average of the weights."""
    steps = int(
        chosen.get("steps")
        or int(chosen.get("epochs") or 50) * math.ceil(situation.data.train / images_per_step(chosen))
    )
    horizon = max(10.0, 0.03 * steps)
    return Choice({"ema": round(1 - 1 / horizon, 5)}, f"a horizon of {horizon:.0f} steps")


def validation(situation: Situation, chosen: Chosen) -> Choice | None:
    """When and on how many images to validate."""
    probe, names = situation.probe(chosen), _val_names(situation, chosen)
    if probe is None or situation.budget is None or not names or not probe.validation:
        return None
    time = VAL_TIME * situation.budget / trainings(chosen)
    every, passes = (
        (BETWEEN, EPOCHS // BETWEEN + 1)
        if (EPOCHS // BETWEEN + 1) * len(names) * probe.validation <= time
        else (EPOCHS, 2)
    )
    count = int(time / (passes * probe.validation))
    settings: dict[str, Any] = {"val_every": every}
    reason = f"{probe.validation:.2g} s per image"
    least = min(len(names), 8)
    if count < len(names) and len(names) > least and not chosen.get("folds"):
        count = max(least, count)
        kept = [names[i * len(names) // count] for i in range(count)]
        settings["val_images"] = tuple(kept)
        reason += f": {count} of {len(names)} images, evenly spread"
        names = tuple(kept)
    times = f"{EPOCHS // every} times" if every < EPOCHS else "at the end"
    return Choice(settings, reason, f"{len(names)} images, {times}")


def _val_names(situation: Situation, chosen: Chosen) -> tuple[str, ...]:
    data = situation.data
    fraction = 1 / chosen["folds"] if chosen.get("folds") else chosen.get("val_fraction")
    if chosen.get("val_images") or data.val_names:
        return tuple(chosen.get("val_images") or data.val_names)
    return data.names[: round(fraction * len(data.names))] if fraction else ()


def workers(situation: Situation, chosen: Chosen) -> Choice:
    """Processes that load images."""
    probe, cores = situation.probe(chosen), situation.machine.cores
    if probe is not None and probe.loading * probe.batch < 0.05 * probe.seconds:
        reason = f"loading takes {probe.loading * 1000:.0f} ms per image"
        return Choice({"workers": 0}, reason, "in the training process")
    count = 1 if cores <= 2 else min(8, cores // 2)
    told = f"loading takes {probe.loading * 1000:.0f} ms per image" if probe is not None else "not measured"
    shown = counted(count, "process", "processes")
    return Choice({"workers": count}, f"{told}; {counted(cores, 'core')}", shown)


def val_tile(situation: Situation, chosen: Chosen) -> Choice | None:
    """Tiles for large validation images."""
    if math.prod(situation.data.largest) <= 2048 * 2048:
        return None
    return Choice({"val_tile": 1024}, f"the largest image has {_x(situation.data.largest)} pixels")


MASKS = Rule(
    "masks",
    ("mask_rule",),
    masks,
    "Masks are read as they are; where their values number objects or lie between two classes, "
    "brighter pixels become foreground.",
)
SPLIT = Rule(
    "validation split",
    ("val_images", "test_images", "left_out"),
    split,
    "A validation part that the data name is kept. Else a fifth of the images, at least 3 and at "
    "most 200, and, of 100 independent groups or frames, 15 in a hundred on which nothing is chosen, for "
    "the score: of a sequence blocks at its end, with a gap before each where there are 50 images; of "
    "independent images whole groups at random, with every class on both sides where that is possible. "
    "Of folds each group is in one.",
)
REDUCE = Rule(
    "image size",
    ("reduce",),
    reduce,
    "The network sees images as they are; with half their sides, once or several times, where the thickest "
    "class is more than 64 pixels thick, the thinnest one stays at least 3, and the smallest image keeps 32 "
    "on each side.",
)
REDUCE_MORE = Rule(
    "smaller images",
    ("reduce",),
    reduce_more,
    "Where images are seen smaller already and even the smallest rung makes fewer than 400 steps, they are "
    "halved again until it does, as long as the thinnest class stays 3 pixels thick and the smallest "
    "image 32.",
    probed=True,
)
CROP = Rule(
    "crop",
    ("crop",),
    crop,
    "Up to three classes: 12 times the thickness of the thickest one, rounded up to 32, from 160 "
    "to 512 pixels, of smaller images as the network sees them. More classes are a scene: the whole image up "
    "to 512. Never more than the "
    "median image, rounded up to 32; square where orientation is free.",
)
LOSS = Rule(
    "loss",
    ("loss",),
    loss,
    "Cross-entropy and Dice; cross-entropy alone for more than 20 classes, and where more than 30 "
    "% of the images show nothing but class 0, on which Dice is unfair.",
)
CLASS_WEIGHTS = Rule(
    "class weights",
    ("class_weights",),
    class_weights,
    "None, unless a class has less than 1 % of the pixels: then sqrt(median share / share), kept "
    "in [0.5, 4], scaled to a mean of 1 over the pixels.",
)
RARE_CROPS = Rule(
    "rare-class crops",
    ("rare_crops",),
    rare_crops,
    "Crops at random places, unless a random crop shows some class with less than 10 %: then a "
    "third of the crops hold a pixel of a class drawn by 1 / sqrt(its pixels), anywhere inside "
    "the crop.",
)
FLIPS = Rule(
    "flips",
    ("flip", "flip_vertical", "rotate90"),
    flips,
    "All mirrors and quarter turns where neither labels nor images can be told from their "
    "upside-down mirror image; else left and right only, and on images that are no photographs not that "
    "either where structures lie elsewhere in the mirror; none where class names speak of left and right, or "
    "of text.",
)
SCALE = Rule(
    "scale jitter",
    ("scale",),
    scale,
    "Random scale of 0.7 to 1.4, wider where the thickness of regions spreads wider over the "
    "images, within 0.5 to 2.",
)
LOCATION_PRIOR = Rule(
    "location prior",
    ("location_prior",),
    location_prior,
    "Where the commonest class at each place has at least 0.05 more mean IoU than the commonest class "
    "everywhere, on images that were left out of the count, log p(class given place) - log p(class) of the "
    "training images is added to the scores after the training, if this helps on the validation images (of "
    "fewer than 4, in any case).",
)
VAL_TILE = Rule(
    "validation tiles",
    ("val_tile",),
    val_tile,
    "Validation images are predicted whole, in tiles of 1024 pixels where one has more than 4 megapixels.",
)
PRECISION = Rule(
    "precision",
    ("precision",),
    precision,
    "bfloat16 where the machine computes with it and a step is 1.1 times as fast; else 32 bits.",
    probed=True,
)
MODEL = Rule(
    "model",
    ("model", "model_arguments"),
    model,
    "The largest rung of the ladder that makes 1000 steps of batch 4 and sees each training pixel "
    "40 times in the time that is left; the smallest one where none does. Without a deadline, the "
    "middle of the ladder. Encoders start from published weights where these lie on this machine; "
    "none are fetched.",
    probed=True,
)
SMALLER_CROP = Rule(
    "smaller crop",
    ("crop",),
    smaller_crop,
    "Where even the smallest rung makes fewer than 400 steps, crops are made smaller until it "
    "does, to half their sides at most and not below 128 pixels.",
    probed=True,
)
BATCH_SIZE = Rule(
    "batch",
    ("batch_size", "accumulate"),
    batch,
    "The smallest power of two from 4 on within 10 % of the most images per second, as long as "
    "400 steps (2000 on a GPU) remain and a batch holds at most 5 % of the training pixels. Where the memory "
    "does not hold 4 images, 2 or 1, the gradients of several batches making a step.",
    probed=True,
)
LR = Rule(
    "learning rate",
    ("lr", "encoder_lr_factor"),
    lr,
    "AdamW. From random weights 0.002 x sqrt(batch / 4), at most 0.004; from published weights "
    "0.0005, the encoder a fifth of it, less for fewer than 100 groups of images.",
    probed=True,
)
RANGE_TEST = Rule(
    "LR range test",
    ("lr",),
    range_test,
    "Before the training, ten passes over the same six batches, at a rate of 0 and then from an eighth of "
    "the planned one to 16 times it: the rate is lowered to a quarter of the one from which on the loss of "
    "these batches rises, to a tenth of the plan at most; it is never raised. Not for budgets of less than "
    "10 minutes, nor where these steps would take more than 3 % of the time (without a deadline, a minute), "
    "nor for a given rate.",
    probed=True,
)
VALIDATION = Rule(
    "validation",
    ("val_every", "val_images"),
    validation,
    "Whole images after 25, 50, 75 and 100 % of the steps; at the end only, and on a part of the "
    "images, spread evenly, where validations and the pictures of the report would take more than "
    "10 % of the time.",
    probed=True,
)
LENGTH = Rule(
    "length",
    ("steps", "epochs", "schedule", "warmup_steps", "images_per_epoch"),
    length,
    "As many steps as the time allows, at most 1000 views of each training pixel; the learning "
    "rate rises over the first 8 % and falls linearly to 0 in the last step. The steps are cut "
    "into 12 epochs, each of which ends in a checkpoint. Epochs or steps that are given switch "
    "the clock off.",
    probed=True,
)
COLOR = Rule(
    "colour and shape",
    ("color", "rotation", "elastic"),
    color,
    "Brightness, contrast and saturation by up to 40 % on photographs, 25 % on others; half of "
    "that for fewer than 10 views of each image. More than 200 views of images with free "
    "orientation: rotation and elastic deformation too.",
    probed=True,
)
EMA = Rule(
    "weight EMA",
    ("ema",),
    ema,
    "The weights are averaged over a horizon of 3 % of the steps, at least 10.",
    probed=True,
)
WORKERS = Rule(
    "workers",
    ("workers",),
    workers,
    "No extra process where loading takes less than a twentieth of a step; else one on up to two "
    "cores, and half of the cores, at most 8, on more.",
    probed=True,
)
