"""Several images at a time: order, threads, errors, and an end before the last item."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import pixelwise as pw
from pixelwise.predict import Predictor
from pixelwise.predict.parallel import images_at_once, in_parallel
from pixelwise.types import ClassTable


def test_results_come_in_order_and_few_items_are_asked_for_ahead(two_threads: None) -> None:
    asked = list[int]()

    def items() -> Iterator[int]:
        for number in range(20):
            asked.append(number)
            yield number

    def work(number: int) -> int:
        time.sleep(0.01 if number % 3 == 0 else 0)
        return 10 * number

    for number, result in enumerate(in_parallel(work, items(), 2)):
        assert result == 10 * number
        assert len(asked) <= number + 3


def test_two_calls_run_at_the_same_time(two_threads: None) -> None:
    together = threading.Barrier(2)
    assert len(list(in_parallel(lambda _: together.wait(timeout=10), range(4), 2))) == 4


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_threads_have_their_share_and_the_modes_of_the_caller(two_threads: None, mode: Any) -> None:
    def work(_: int) -> tuple[int, bool, bool]:
        return torch.get_num_threads(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    with mode():
        here = (torch.is_grad_enabled(), torch.is_inference_mode_enabled())
        assert list(in_parallel(work, range(4), 2)) == 4 * [(1, *here)]
    assert torch.get_num_threads() == 2


def test_an_error_comes_at_its_place_and_the_threads_of_torch_are_given_back(two_threads: None) -> None:
    def work(number: int) -> int:
        if number == 3:
            raise ValueError("the fourth")
        return number

    found = list[int]()
    with pytest.raises(ValueError, match="the fourth"):
        found.extend(in_parallel(work, range(9), 2))
    assert found == [0, 1, 2]
    assert torch.get_num_threads() == 2
    results = in_parallel(work, range(9), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    results.close()
    assert torch.get_num_threads() == 2
    fresh = list[int]()
    other = threading.Thread(target=lambda: fresh.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert fresh == [2]  # threads that begin later are not left with a share


def test_an_item_that_is_to_be_alone_has_nothing_beside_it(two_threads: None) -> None:
    running, most = set[int](), dict[int, int]()

    def work(number: int) -> int:
        running.add(number)
        time.sleep(0.01)
        most[number] = len(running)
        running.discard(number)
        return torch.get_num_threads()

    found = list(in_parallel(work, range(6), 2, alone=lambda number: number == 3))
    assert found == [1, 1, 1, 2, 1, 1]
    assert most[3] == 1


def test_only_networks_that_torch_computes_on_a_cpu_look_at_several_images(two_threads: None) -> None:
    cpu = torch.device("cpu")
    assert images_at_once(torch.nn.Conv2d(3, 2, 1), cpu) == 2
    assert images_at_once(torch.nn.Conv2d(3, 2, 1), torch.device("cuda")) == 1
    assert images_at_once(torch.nn.Identity(), cpu) == 1


@pytest.mark.parametrize("blend", ["crop", "gaussian"])
def test_tiles_at_a_time_give_what_one_after_the_other_gives(blend: str, two_threads: None) -> None:
    torch.manual_seed(3)
    model = pw.build("unet", 3, encoder="tiny").eval()
    image = np.random.default_rng(3).integers(0, 256, (203, 331, 3), np.uint8)
    predict = Predictor(model, ClassTable.of("a", "b", "c"), tile=(96, 96), overlap=32, blend=blend)
    assert predict.at_once == 2
    streamed = predict.stream(image, np.zeros(image.shape[:2], np.uint8))
    together = predict(image).label_map.labels.numpy()
    with torch.inference_mode():
        inferred = predict(image).label_map.labels.numpy()
    torch.set_num_threads(1)
    assert predict.at_once == 1
    alone = predict(image).label_map.labels.numpy()
    assert len(np.unique(alone)) > 1
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(inferred, alone)
    np.testing.assert_array_equal(streamed, alone)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_server_divides_a_batch_among_the_cores(count: int, two_threads: None) -> None:
    from pixelwise.serve.served import _annotations
    from pixelwise.types import Sample

    torch.manual_seed(4)
    model = pw.build("unet", 3, encoder="tiny").eval()
    predict = Predictor(model, ClassTable.of("a", "b", "c"))
    sizes = list[tuple[int, int]]()
    model.register_forward_pre_hook(lambda _, given: sizes.append((len(given[0]), torch.get_num_threads())))
    samples = [Sample(image, None, "") for image in torch.rand(count, 3, 66, 70)]
    found = [one.labels for one in _annotations(predict, samples)]
    assert sorted(sizes) == {1: [(1, 2)], 2: [(1, 1), (1, 1)], 5: [(2, 1), (3, 1)]}[count]
    expected = [predict.annotations([sample])[0].labels for sample in samples]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
