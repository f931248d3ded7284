"""How large the tiles are that fit into memory."""

import pytest
import torch

from pixelwise.predict.memory import available_memory, fitting_tile

GIB = 2**30


def test_the_free_memory_of_this_machine_is_known() -> None:
    assert 2**20 < available_memory(torch.device("cpu")) < 2**50


@pytest.mark.parametrize(
    "available, expected", [(40 * GIB, None), (16 * GIB, (2048, 2048)), (3 * GIB, (1024, 1024))]
)
def test_tiles_are_chosen_where_the_whole_image_does_not_fit(available: int, expected: object) -> None:
    # 12 megapixels at 1000 bytes: 11.2 GiB, of which half the free memory must be enough.
    assert fitting_tile((3000, 4000), 1000, 21, available) == expected


def test_no_room_at_all_is_a_sentence_that_names_tiles() -> None:
    with pytest.raises(ValueError, match=r"3000 x 4000 pixels do not fit .*0\.1 GiB are free.*--tile HxW"):
        fitting_tile((3000, 4000), 5000, 21, GIB // 10)
