"""The decision table: facts in, choices out, each rule at both sides of its border."""

import json
import math
from typing import Any

import pytest
from hypothesis import given as with_values, settings as how, strategies as st

from pixelwise.planning import DataFacts, Probe, RangeTest, Situation, read_plan, rules
from pixelwise.recipe import Recipe
from pixelwise.training import recipe_of

from .conftest import decided, facts, machine, one

FREE = {"channels": 1, "mirrored": 0.03, "told_apart": math.nan}
THIN = (one("membrane", 0.2, thickness=6.0), one("cell", 0.8, thickness=15.0))

# facts, what the user gives, settings that follow
TABLE: dict[str, tuple[DataFacts, dict[str, Any], dict[str, Any]]] = {
    # crop
    "twelve times the thickness": (facts(), {"crop": "free"}, {"crop": (256, 256)}),
    "never below 160": (facts(of_classes=THIN[:1] * 1), {"crop": "free"}, {"crop": (160, 160)}),
    "never above 512": (
        facts(size=(900, 900), of_classes=(one(thickness=4.0), one("b", thickness=90.0))),
        {"crop": "free"},
        {"crop": (512, 512), "reduce": 1},
    ),
    "never above 512 pixels as they are seen": (
        facts(size=(1900, 1900), of_classes=(one(thickness=80.0), one("b", thickness=90.0))),
        {"crop": "free"},
        {"crop": (1024, 1024), "reduce": 2},
    ),
    # image size
    "regions of 64 pixels are seen as they are": (
        facts(of_classes=(one(thickness=64.0), one("b", thickness=30.0))), {}, {"reduce": 1},
    ),
    "thicker ones at half size": (
        facts(of_classes=(one(thickness=65.0), one("b", thickness=30.0))), {}, {"reduce": 2},
    ),
    "even thicker ones at a quarter": (
        facts(of_classes=(one(thickness=129.0), one("b", thickness=30.0))), {}, {"reduce": 4},
    ),
    "thin ones stay visible": (
        facts(of_classes=(one(thickness=129.0), one("b", thickness=6.0))), {}, {"reduce": 2},
    ),
    "small images stay as they are": (
        facts(of_classes=(one(thickness=65.0),), smallest=(63, 300)), {}, {"reduce": 1},
    ),
    "a given size is kept": (
        facts(of_classes=(one(thickness=65.0),)), {"reduce": 1}, {"reduce": 1},
    ),
    "never above the image": (facts(size=(100, 200)), {"crop": "free"}, {"crop": (128, 224)}),
    "a scene is taken whole": (facts(classes=4, size=(360, 480)), {"crop": "free"}, {"crop": (384, 480)}),
    "three classes are no scene": (facts(classes=3, size=(360, 480)), {"crop": "free"}, {"crop": (256, 256)}),
    "free orientation makes crops square": (
        facts(classes=4, size=(360, 480), **FREE), {"crop": "free"}, {"crop": (384, 384)},
    ),
    "images of eight pixels": (facts(size=(8, 8)), {"crop": "free"}, {"crop": (32, 32)}),
    # loss and imbalance
    "two classes": (facts(), {}, {"loss": "cross_entropy+dice", "class_weights": "none"}),
    "twenty classes": (facts(classes=20), {}, {"loss": "cross_entropy+dice"}),
    "twenty-one classes": (facts(classes=21), {}, {"loss": "cross_entropy"}),
    "few empty images": (facts(empty=0.3), {}, {"loss": "cross_entropy+dice"}),
    "many empty images": (facts(empty=0.31), {}, {"loss": "cross_entropy"}),
    "one percent is not rare": (
        facts(of_classes=(one("a", 0.99), one("b", 0.01))), {}, {"class_weights": "none"},
    ),
    "less than a percent is": (
        facts(of_classes=(one("a", 0.691), one("b", 0.3), one("c", 0.009))), {},
        {"class_weights": (0.833, 1.264, 5.055)},
    ),
    "several classes per pixel have no weights": (
        facts(of_classes=(one("a", 0.999), one("b", 0.001)), exclusive=False), {}, {"class_weights": "none"},
    ),
    "a class that random crops miss": (
        facts(size=(1024, 1024), of_classes=(one("a", 0.99), one("b", 0.01, images=0.5))), {},
        {"rare_crops": 0.33},
    ),
    "a class that random crops find": (
        facts(size=(512, 512), of_classes=(one("a", 0.9), one("b", 0.1, images=0.5))), {},
        {"rare_crops": 0.0},
    ),
    # flips
    "photographs are upright": (facts(), {}, {"flip": 0.5, "flip_vertical": 0.0, "rotate90": 0.0}),
    "labels alone do not make them free": (
        facts(mirrored=0.02, told_apart=0.95), {}, {"flip_vertical": 0.0, "rotate90": 0.0},
    ),
    "images alone do not make them free": (facts(mirrored=0.4, told_apart=0.5), {}, {"flip_vertical": 0.0}),
    "both make them free": (
        facts(mirrored=0.02, told_apart=0.55), {}, {"flip": 0.5, "flip_vertical": 0.5, "rotate90": 0.5},
    ),
    "told apart just enough": (facts(mirrored=0.02, told_apart=0.65), {}, {"flip_vertical": 0.0}),
    "label maps that differ just enough": (facts(mirrored=0.15, told_apart=0.5), {}, {"flip_vertical": 0.0}),
    "slices of one stack void the test, grey ones are free": (
        facts(18, neighbours=0.67, random_order=0.38, mirrored=0.065, told_apart=1.0, channels=1), {},
        {"flip_vertical": 0.5, "rotate90": 0.5},
    ),
    "frames of one street void it too, but are photographs": (
        facts(300, neighbours=0.88, random_order=0.64, mirrored=0.05, told_apart=0.5), {},
        {"flip_vertical": 0.0},
    ),
    "few photographs stay upright": (facts(20, mirrored=0.078, told_apart=1.0), {}, {"flip_vertical": 0.0}),
    "few grey images are free": (facts(20, mirrored=0.05, channels=1), {}, {"flip_vertical": 0.5}),
    "five channels are no photograph": (facts(20, mirrored=0.05, channels=5), {}, {"flip_vertical": 0.5}),
    "left and right forbid all mirrors": (
        facts(sides=True, **FREE), {}, {"flip": 0.0, "flip_vertical": 0.0, "rotate90": 0.0},
    ),
    "grey images whose structures have a side are not mirrored": (
        facts(20, mirrored=0.31, sideways=0.78, channels=1), {},
        {"flip": 0.0, "flip_vertical": 0.0, "rotate90": 0.0},
    ),
    "nor turned where they have a side but no up": (
        facts(20, mirrored=0.05, sideways=0.15, channels=1), {},
        {"flip": 0.0, "flip_vertical": 0.5, "rotate90": 0.0},
    ),
    "a small difference of sides is none": (
        facts(20, mirrored=0.05, sideways=0.14, channels=1), {}, {"flip": 0.5, "rotate90": 0.5},
    ),
    "photographs have no sides": (facts(20, sideways=0.78), {}, {"flip": 0.5}),
    "a crop that is not square is not turned": (
        facts(**FREE), {"crop": (128, 256)}, {"flip_vertical": 0.5, "rotate90": 0.0},
    ),
    # location prior
    "places that tell something are asked": (facts(placed=0.05), {}, {"location_prior": True}),
    "places that tell nothing are not": (facts(placed=0.049), {}, {"location_prior": False}),
    "places of which nothing is known are not": (facts(), {}, {"location_prior": False}),
    "a given one is kept": (facts(placed=0.3), {"location_prior": False}, {"location_prior": False}),
    "folds have one too": (facts(placed=0.3), {"folds": 5}, {"location_prior": True}),
    # augmentation
    "scale has a least range": (facts(), {}, {"scale": (0.7, 1.4)}),
    "scale follows the spread": (facts(spread=3.0), {}, {"scale": (0.58, 1.73)}),
    "scale has a largest range": (facts(spread=50.0), {}, {"scale": (0.5, 2.0)}),
    "photographs change colour more": (facts(), {}, {"color": 0.4}),
    "grey images less": (facts(**FREE), {}, {"color": 0.25}),
    # batch, lr, schedule
    "four images per step": (facts(), {}, {"batch_size": 4, "lr": 0.002}),
    "a given batch moves the lr": (facts(), {"batch_size": 16}, {"batch_size": 16, "lr": 0.004}),
    "so do batches whose gradients are added": (
        facts(), {"accumulate": 4}, {"batch_size": 4, "accumulate": 4, "lr": 0.004},
    ),
    "the lr has a limit": (facts(), {"batch_size": 64}, {"lr": 0.004}),
    "published weights": (
        facts(25), {"model": "unet", "model_arguments": {"encoder": "resnet18", "pretrained": True}},
        {"lr": 0.00025, "encoder_lr_factor": 0.2},
    ),
    "the schedule falls to zero": (facts(), {}, {"schedule": "linear"}),
    # masks and parts
    "masks of numbers": (facts(mask_rule="above-0"), {}, {"mask_rule": "above-0"}),
    "large images are validated in tiles": (facts(largest=(12000, 12000)), {}, {"val_tile": 1024}),
    "four megapixels are validated whole": (facts(largest=(2048, 2048)), {}, {"val_tile": None}),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE, ids=str)
def test_facts_lead_to_these_choices(case: str) -> None:
    data, given, expected = TABLE[case]
    recipe = Recipe("data").changed(**decided(data, given).settings)
    assert {name: getattr(recipe, name) for name in expected} == expected


@pytest.mark.parametrize(
    "data, seconds, budget, expected",
    [
        # 90 % of the budget is left for training, validation and report
        (facts(30, of_classes=THIN), (0.1, 0.2, 0.4, 0.8, 1.6, 3.2), 600.0, "unet, width 16"),
        (facts(30, of_classes=THIN), (0.1, 0.2, 0.4, 0.8, 1.6, 3.2), 1200.0, "unet, width 24"),
        (
            facts(30, of_classes=THIN),
            (9.0,) * 6,
            600.0,
            "unet, width 8",
        ),  # none makes 1000 steps: the smallest
        (
            facts(3000, of_classes=THIN),
            (0.2, 0.4, 0.8),
            600.0,
            "unet, width 8",
        ),  # nor sees each image 40 times
        (facts(30), (0.1, 0.2, 0.3, 0.4, 0.5), 1200.0, "unet on resnet50"),
        (facts(30), (0.2, 0.5, 0.9), 1200.0, "unet, width 16"),  # resnet18 would see pixels too rarely
        (facts(30, classes=5), (0.1, 0.2, 0.3, 0.4, 4.0), 1200.0, "unet on resnet34"),
        (
            facts(30, of_classes=(*THIN, one("c"), one("d"))),
            (0.1, 0.2, 0.4),
            1200.0,
            "unet on resnet18",
        ),  # 4 classes
    ],
)
def test_the_largest_network_that_steps_and_views_allow_is_taken(
    data: DataFacts, seconds: tuple[float, ...], budget: float, expected: str
) -> None:
    rows = {row.choice: row for row in decided(data, seconds=seconds, budget=budget).rows}
    assert rows["model"].value == expected
    assert "wanted of a larger one: 1000 steps, 40 times" in rows["model"].reason


def test_bfloat16_is_taken_where_it_pays() -> None:
    for half, expected in ((0.19, "32"), (0.18, "bf16")):
        name = "unet on resnet18"
        probes = (Probe(name, (256, 256), 4, "bf16", half, 0.01, 0.1),)
        assert decided(facts(), probes=probes, bf16=True).settings["precision"] == expected
    assert decided(facts(), bf16=False).settings["precision"] == "32"


def test_a_larger_batch_is_taken_where_it_is_faster_and_leaves_enough_steps() -> None:
    def batch(seconds: float, budget: float, train: int = 2000) -> int:
        probes = (Probe("unet, width 8", (256, 256), 8, "32", seconds, 0.01, 0.1),)
        given = {"model_arguments": {}}
        plan = decided(facts(train), given, probes=probes, budget=budget, seconds=(0.2,))
        return plan.settings["batch_size"]

    assert batch(0.2, 1200) == 8  # twice the images per second
    assert batch(0.37, 1200) == 4  # 8 % more
    assert batch(0.2, 60) == 4  # 190 steps would remain
    assert batch(0.2, 1200, train=30) == 4  # 8 crops are more than 5 % of the pixels


def test_batches_whose_gradients_are_added_take_their_time() -> None:
    once, twice = (decided(facts(), given).settings for given in ({}, {"accumulate": 2}))
    assert twice["steps"] == pytest.approx(once["steps"] / 2, rel=0.02)
    assert twice["images_per_epoch"] == pytest.approx(once["images_per_epoch"], rel=0.05)


@pytest.mark.parametrize("count", [1, 2])
def test_small_batches_make_a_step_together_where_the_memory_holds_no_more(count: int) -> None:
    probes = (Probe("unet on resnet18", (256, 256), count, "32", 0.1, 0.01, 0.1),)
    plan = decided(facts(), probes=probes, seconds=(), budget=2400.0)
    assert (plan.settings["batch_size"], plan.settings["accumulate"]) == (count, 4 // count)
    assert plan.settings["lr"] == 0.002
    row = next(row for row in plan.rows if row.choice == "batch")
    assert row.reason == f"the memory holds no more: {4 // count} batches make a step"
    given = decided(facts(), {"batch_size": count}, probes=probes, seconds=())
    assert "accumulate" not in given.settings


def test_crops_shrink_where_time_is_short() -> None:
    settings = decided(facts(size=(640, 640)), {"crop": "free"}, seconds=(3.0,), budget=600.0).settings
    assert settings["crop"] == (160, 160)
    given = decided(facts(), {"crop": (256, 256)}, seconds=(3.0,), budget=600.0)
    assert given.settings["crop"] == (256, 256)
    assert sum(row.value == "256x256" for row in given.rows) == 1


@pytest.mark.parametrize(
    "found, rate, value",
    [
        (RangeTest(math.inf, 0.03, 60), 0.002, "the rate stays"),
        (RangeTest(0.0081, 0.03, 60), 0.002, "the rate stays"),
        (RangeTest(0.0079, 0.03, 60), 0.00198, "lower the rate to 0.00198"),
        (RangeTest(0.00025, 0.03, 60), 0.0002, "lower the rate to 0.0002"),  # a tenth, not an eightieth
        (RangeTest(skipped="the budget is less than 10 min"), 0.002, "skipped"),
    ],
)
def test_a_range_test_may_lower_the_rate_and_never_raises_it(
    found: RangeTest, rate: float, value: str
) -> None:
    plan = decided(facts(), range_test=found)
    assert plan.settings["lr"] == rate
    assert next(row.value for row in plan.rows if row.choice == "LR range test") == value


def test_a_range_test_takes_three_percent_of_ten_minutes_or_more() -> None:
    def why_not(budget: float | None, seconds: float) -> str:
        probe = Probe("unet on resnet18", (256, 256), 4, "32", seconds, 0.0)
        situation = Situation(facts(), machine().with_probes(probe), budget, budget)
        return rules.no_range_test(situation, {"rung": probe.rung, "batch_size": 4, "crop": (256, 256)})

    assert why_not(600.0, 0.3) == ""
    assert why_not(599.0, 0.01) == "the budget is less than 10 min"
    assert why_not(600.0, 0.31) == "60 steps take 19 s, at most 18 s wanted"
    assert why_not(None, 0.9) == ""
    assert "at most 60 s wanted" in why_not(None, 1.1)


def test_the_time_for_test_time_settings_is_what_they_should_take_and_at_most_a_twentieth() -> None:
    def kept(passes: int, images: int, **chosen: Any) -> float:
        probe = Probe("unet on resnet18", (256, 256), 4, "32", 0.3, 0.0, validation=0.5)
        known = machine().with_probes(probe)
        data = facts(100, val=images, val_names=tuple(f"val/{i}" for i in range(images)))
        situation = Situation(data, known, 600.0, 500.0, passes_of_choices=passes)
        return rules.seconds_of_choices(situation, probe, chosen)

    assert kept(2, 8) == 1.5 * 2 * 8 * 0.5
    assert kept(7, 8) == 30.0  # half more would be 42 s
    assert kept(0, 8) == 0.0  # the task offers none
    assert kept(7, 8, choose=False) == 0.0
    assert kept(2, 1, folds=5) == 30.0  # those of folds are chosen on all images


def test_validation_takes_a_tenth_of_the_time_at_most() -> None:
    often = decided(facts(100), budget=1200.0, validation=0.1)
    assert often.settings["val_every"] == 3
    assert len(often.settings["val_images"]) == 20
    rarely = decided(facts(1000), budget=600.0, validation=0.3)  # 200 images, 60 s each time
    assert rarely.settings["val_every"] == 12
    assert len(rarely.settings["val_images"]) == 100
    named = facts(100, val=50, val_names=tuple(f"val/{i}" for i in range(50)))
    assert set(decided(named, budget=60.0, validation=0.5, seconds=(0.1,)).settings["val_images"]) < set(
        named.val_names
    )


# --- parts --------------------------------------------------------------------------------------------


def test_a_sequence_is_validated_on_its_last_block_behind_a_gap() -> None:
    data = facts(60, neighbours=0.9, random_order=0.5, gap=3)
    settings = decided(data).settings
    assert settings["val_images"] == data.names[-12:]
    assert settings["left_out"] == data.names[-15:-12]
    short = decided(facts(20, neighbours=0.9, random_order=0.5, gap=3)).settings
    assert (len(short["val_images"]), short["left_out"]) == (4, ())


def test_groups_are_never_torn_apart_and_rare_classes_lie_on_both_sides() -> None:
    group_of = tuple(i // 5 for i in range(60))
    shown = tuple((0, 1) if i in (0, 59) else (0,) for i in range(60))
    data = facts(60, groups=12, group_of=group_of, shown=shown)
    chosen = set(decided(data).settings["val_images"])
    inside = [data.names[i] in chosen for i in range(60)]
    assert all(len(set(inside[i : i + 5])) == 1 for i in range(0, 60, 5))
    assert sum(inside) == 10
    assert inside[0] != inside[59]


@pytest.mark.parametrize("count, expected", [(2, 1), (3, 1), (4, 2), (6, 3), (10, 3), (20, 4), (5000, 200)])
def test_the_validation_part_is_a_fifth_within_bounds(count: int, expected: int) -> None:
    assert len(decided(facts(count), validation=0.001).settings["val_images"]) == expected


# --- what holds for any facts -------------------------------------------------------------------------

FACTS = st.builds(
    facts,
    st.integers(2, 300),
    classes=st.integers(2, 30),
    size=st.tuples(st.integers(8, 3000), st.integers(8, 3000)),
    channels=st.sampled_from([1, 3, 5]),
    mirrored=st.floats(0, 1),
    placed=st.floats(-1, 1),
    told_apart=st.floats(0, 1),
    neighbours=st.floats(0, 1),
    empty=st.floats(0, 1),
    spread=st.floats(1, 100),
    sides=st.booleans(),
)


@how(max_examples=60, deadline=None)
@with_values(FACTS, st.floats(60, 7200), st.floats(0.01, 2))
def test_any_facts_give_a_recipe_whose_choices_have_reasons(
    data: DataFacts, budget: float, step: float
) -> None:
    try:
        plan = decided(data, {"crop": "free"}, budget=budget, seconds=(step, 2 * step, 4 * step))
    except ValueError as error:
        assert "is too small" in str(error)  # noqa: PT017
        return
    recipe = Recipe("data").changed(**plan.settings)
    assert all(row.reason and row.value for row in plan.rows)
    assert not set(recipe.val_images) & set(recipe.left_out)
    assert 0 < len(recipe.val_images) < data.train
    json.dumps(plan.as_dict(), allow_nan=False)


@how(max_examples=30, deadline=None)
@with_values(FACTS, st.floats(60, 3000), st.floats(1, 10), st.floats(0.02, 2))
def test_more_time_never_takes_a_smaller_network(
    data: DataFacts, budget: float, more: float, step: float
) -> None:
    def rung(budget: float) -> int:
        try:
            plan = decided(data, budget=budget, seconds=(step, 2 * step, 4 * step))
        except ValueError:
            return -1
        names = [one.name for one in plan.situation.ladder]
        return names.index(next(row.value for row in plan.rows if row.choice == "model"))

    assert rung(budget * more) >= rung(budget)


GIVEN = {
    "batch_size": 6, "lr": 0.1, "loss": "focal", "flip": 0.0, "scale": (1.0, 1.0), "color": 0.1, "ema": 0.5,
    "precision": "bf16", "workers": 3, "warmup_steps": 7, "schedule": "cosine", "val_every": 2,
}  # fmt: skip


@pytest.mark.parametrize("name", GIVEN)
def test_what_the_user_gives_wins_and_is_told(name: str) -> None:
    plan = decided(facts(), {name: GIVEN[name]})
    assert plan.settings[name] == GIVEN[name]
    (row,) = [row for row in plan.rows if row.origin == "given" and row.choice != "crop"]
    assert "given by you" in row.reason


def test_epochs_that_are_given_switch_the_clock_off_and_keep_the_rules() -> None:
    plan = decided(facts(), {"epochs": 7}, budget=None)
    assert plan.settings["epochs"] == 7
    assert "steps" not in plan.settings
    assert plan.settings["schedule"] == "linear"
    assert plan.times["most_steps"] is None
    assert Recipe("data").changed(**plan.settings).warmup_steps == round(0.08 * 7 * 25)


def test_a_budget_that_is_too_small_says_what_would_suffice() -> None:
    with pytest.raises(
        ValueError, match=r"a budget of 5 s is too small: .* a first try needs .* a training "
    ):
        decided(facts(), budget=5.0)
    (warning,) = decided(facts(), budget=60.0, seconds=(1.0,)).warnings
    assert "expect a modest model" in warning


def test_a_validation_part_that_shares_images_is_told() -> None:
    data = facts(neighbours=0.9, random_order=0.5, val=10, val_names=("a", "b"), crossing=3)
    first, second = decided(data).warnings
    assert "the images are a sequence" in first
    assert "3 validation images" in second


# --- the other tasks ------------------------------------------------------------------------------------


def settings_of(task: str, data: DataFacts, **of_machine: Any) -> Recipe:
    plan = decided(data, task=task, seconds=(0.5, 0.9), **of_machine)
    return recipe_of({"data": "data", **plan.settings, "task": task})


@pytest.mark.parametrize("task", ["instance", "detection", "panoptic"])
def test_networks_of_regions_take_whole_images_about_as_large_as_they_are(task: str) -> None:
    small = settings_of(task, facts(size=(240, 300)))
    assert (small.crop, small.batch_size, small.lr, small.clip_norm) == (None, 2, 8e-4, 10.0)
    assert small.model_arguments["min_size"] == 240
    assert settings_of(task, facts(size=(1200, 1600))).model_arguments["min_size"] == 320
    assert settings_of(task, facts(size=(100, 100))).model_arguments["min_size"] == 192
    assert small.flip_vertical == 0.0
    assert settings_of(task, facts(sides=True)).flip == 0.0
    published = decided(facts(), {"model": "mask_rcnn", "model_arguments": {"pretrained": True}}, task=task)
    assert published.settings["lr"] == 2e-4


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ((0.2, 0.3, 0.8, 3.0), ("resnet18", 64)),
        ((0.1, 0.14, 0.16, 0.18, 0.2), ("resnet34", 256)),
        ((1.6,), ("resnet18", 32)),  # 400 steps would take longer
    ],
)
def test_networks_of_regions_have_few_channels_where_time_is_short(
    seconds: tuple[float, ...], expected: tuple[str, int]
) -> None:
    chosen = decided(facts(), task="instance", budget=480.0, seconds=seconds).settings["model_arguments"]
    assert (chosen["encoder"], chosen["width"]) == expected


@pytest.mark.parametrize(
    "size, expected",
    [
        ((36, 50, 35), (40, 56, 40)),
        ((20, 20, 20), (24, 24, 24)),
        ((64, 64, 64), (48, 48, 48)),
        ((100, 400, 400), (16, 80, 80)),
        ((5, 9, 9), (16,) * 3),
    ],
)
def test_patches_of_volumes_shrink_along_the_longest_axes(
    size: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    recipe = settings_of("volume", facts(size=size, largest=size, channels=1))
    assert recipe.crop == expected
    assert (recipe.batch_size, recipe.scale, recipe.loss) == (2, (1.0, 1.0), "cross_entropy+dice")


@pytest.mark.parametrize(
    ("seconds", "size", "reduce", "expected"),
    [
        (0.1, (36, 50, 35), 1, (40, 56, 40)),
        (0.4, (36, 50, 35), 1, (40, 56, 40)),
        (0.55, (36, 50, 35), 2, (48, 64, 48)),  # fewer than 400
        (0.5, (31, 50, 35), 1, (32, 56, 40)),  # 16 voxels would not be left
        (40.0, (31, 50, 35), 1, (24, 40, 32)),  # nor do smaller patches make 400 steps
        (40.0, (80, 80, 80), 2, (64, 64, 64)),
    ],
)
def test_volumes_are_seen_smaller_where_time_is_short(
    seconds: float, size: tuple[int, ...], reduce: int, expected: tuple[int, ...]
) -> None:
    probe = Probe("unet3d, width 8", (40, 56, 40), 2, "32", seconds, 0.01)
    data = facts(80, size=size, largest=size, channels=1)
    plan = decided(data, task="volume", budget=240.0, seconds=(), probes=(probe,))
    assert (plan.settings.get("reduce", 1), plan.settings["crop"]) == (reduce, expected)


def test_a_given_size_of_volumes_is_kept() -> None:
    probe = Probe("unet3d, width 8", (40, 56, 40), 2, "32", 4.0, 0.01)
    data = facts(80, size=(36, 50, 35), largest=(36, 50, 35), channels=1)
    plan = decided(data, {"reduce": 1}, task="volume", budget=240.0, seconds=(), probes=(probe,))
    assert plan.settings["reduce"] == 1


@pytest.mark.parametrize(("changes", "flip"), [
    ({"mirrored": 0.14}, 0.5), ({"mirrored": 0.15}, 0.0), ({"mirrored": 0.0, "sideways": 0.2}, 0.0),
    ({"mirrored": 0.0, "sides": True}, 0.0),
])  # fmt: skip
def test_volumes_are_mirrored_where_their_structures_have_no_side(
    changes: dict[str, Any], flip: float
) -> None:
    size = (40, 40, 40)
    assert settings_of("volume", facts(size=size, largest=size, **changes)).flip == flip


def test_key_points_keep_the_augmentation_of_their_task() -> None:
    recipe = settings_of("keypoints", facts())
    assert (recipe.crop, recipe.batch_size, recipe.lr) == ((128, 96), 16, 1e-3)
    assert (recipe.scale, recipe.rotation, recipe.loss) == ((0.65, 1.35), 45.0, "heatmap")
    assert recipe.model == "simplebaseline"


def test_several_classes_per_pixel_follow_the_rules_of_one() -> None:
    recipe = settings_of("multilabel", facts(exclusive=False))
    assert (recipe.loss, recipe.class_weights, recipe.model) == ("cross_entropy+dice", "none", "unet")


@pytest.mark.parametrize(
    ("seconds", "thinnest", "reduce", "crop"),
    [
        (1.2, 30.0, 2, (512, 704)),  # 1.7 s for a step of whole images at half size: enough of them
        (3.0, 30.0, 4, (512, 704)),
        (3.0, 9.0, 2, (416, 544)),  # thin regions would get lost: smaller crops instead
        (60.0, 30.0, 8, (352, 512)),  # both
    ],
)
def test_large_things_are_seen_smaller_where_time_is_short(
    seconds: float, thinnest: float, reduce: int, crop: tuple[int, int]
) -> None:
    data = facts(size=(500, 700), of_classes=(one(thickness=70.0), one("b", thickness=thinnest)))
    plan = decided(data, {"crop": "free"}, seconds=(seconds,) * 4, budget=1200.0)
    assert (plan.settings["reduce"], plan.settings["crop"]) == (reduce, crop)


def test_a_plan_with_brackets_without_end_is_refused(tmp_path) -> None:
    path = tmp_path / "plan.json"
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="is no plan of a training"):
        read_plan(path)
