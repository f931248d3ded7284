"""What a stranger wrote is quoted in messages, but not at any length."""

import pytest

import pixelwise as pw
from pixelwise.training import Recipe
from pixelwise.wording import brief, some_of


def test_short_texts_are_quoted_whole_and_long_ones_are_cut_in_the_middle() -> None:
    assert brief("unet") == "'unet'"
    assert brief(3.5) == "'3.5'"
    cut = brief("a" * 3000 + "b" * 3000)
    assert len(cut) <= 90
    assert cut.startswith("'aaa")
    assert cut.endswith("bbb'")


def test_a_list_is_told_by_its_first_names() -> None:
    assert some_of(["a", "b"]) == "a, b"
    assert some_of([str(i) for i in range(10_000)]) == "0, 1, 2, 3, 4 and 9995 more"


@pytest.mark.parametrize(
    "call",
    [
        lambda long: pw.build(long, 3),
        lambda long: pw.build("unet", 3, **{long: 1}),
        lambda long: pw.make_criterion(long, pw.ClassTable.of("a", "b")),
        lambda long: pw.load_weights(long),
        pytest.param(lambda long: Recipe("data", schedule=long), marks=pytest.mark.compile),
        lambda long: Recipe("data").changed(**{long: 1}),
        lambda long: pw.ClassTable.of(long, long),
    ],
)
def test_a_mistyped_name_of_any_length_makes_a_short_sentence(call) -> None:
    with pytest.raises(ValueError, match=r"q\.\.\.q") as error:
        call("q" * 5000)
    assert len(str(error.value)) < 1500
