"""Objects are followed through videos of any length, in any order, and from where one stopped."""

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import pixelwise as pw
from pixelwise.decode import without_small_holes
from pixelwise.models import SAM2, sam2
from pixelwise.predict import load_tracks, save_tracks, track_video, tracking
from pixelwise.types import ClassTable, Prompts, Tracked, TrackState

HEIGHT, WIDTH = 21, 34
POINT = Prompts.at([(10, 8)])
BOX = Prompts.of(boxes=torch.tensor([[3.0, 2, 20, 15]]))
MASK = Prompts.of(masks=torch.ones(1, HEIGHT, WIDTH).tril() - 0.5)


@pytest.fixture(scope="module")
def predictor() -> pw.Predictor:
    torch.manual_seed(0)
    model = sam2(image_size=32, encoder_width=8, width=32, memory_width=8)
    for key, parameter in model.named_parameters():
        if not parameter.any() or key.endswith("gamma"):
            nn.init.normal_(parameter, std=0.3)
    nn.init.constant_(model.mask_decoder.pred_obj_score_head.layers[2].bias, 9.0)  # objects are visible
    return pw.Predictor(model, ClassTable.of("object"))


def clip(count: int) -> list[np.ndarray]:
    random = np.random.default_rng(4)
    return [random.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8) for _ in range(count)]


def by_frame(results: Iterator[tuple[TrackState, Tracked]]) -> dict[int, Tracked]:
    return {found.frame: found for _, found in results}


def same(one: Tracked, other: Tracked) -> bool:
    return one.objects == other.objects and torch.equal(one.coarse, other.coarse)


def size_of(state: TrackState) -> int:
    """Bytes of all tensors."""
    return sum(x.numel() * x.element_size() for x in pytree.tree_leaves(state) if isinstance(x, Tensor))


def test_a_video_is_followed_from_the_first_prompted_frame_to_its_end_and_then_to_its_start(
    predictor: pw.Predictor,
) -> None:
    frames = clip(9)
    results = [found for _, found in track_video(predictor, frames, {5: {2: BOX}, 3: {1: POINT}})]
    assert [found.frame for found in results] == [3, 4, 5, 6, 7, 8, 2, 1, 0]
    assert {found.objects for found in results} == {(1, 2)} or {found.objects for found in results} == {
        (2, 1)
    }
    assert results[0].logits.shape == (2, HEIGHT, WIDTH)
    assert results[0].labels.shape == (HEIGHT, WIDTH)
    forward = [
        found.frame for _, found in track_video(predictor, frames, {3: {1: POINT}}, direction="forward")
    ]
    backward = [
        found.frame for _, found in track_video(predictor, frames, {3: {1: POINT}}, direction="backward")
    ]
    assert (forward, backward) == ([3, 4, 5, 6, 7, 8], [3, 2, 1, 0])


def test_a_prompted_frame_shows_what_was_answered_there_and_later_frames_depend_on_it(
    predictor: pw.Predictor,
) -> None:
    frames = clip(4)
    first = by_frame(track_video(predictor, frames, {0: {1: POINT}}))
    other = by_frame(track_video(predictor, frames, {0: {1: BOX}}))
    given = by_frame(track_video(predictor, frames, {0: {1: MASK}}))
    wanted = MASK.masks[0] > 0
    both, either = (wanted & (given[0].labels == 1)).sum(), (wanted | (given[0].labels == 1)).sum()
    assert both / either > 0.85  # masks are taken as they are, at the resolution of the network's
    for frame in range(4):
        assert not same(first[frame], other[frame])
        assert not same(first[frame], given[frame])
    alone = predictor.masks(predictor.embed(frames[0]), POINT).annotation
    assert torch.equal(alone.dense[0], first[0].logits[0] > 0)  # an image is a video of one frame


def test_a_correction_changes_its_frame_and_all_behind_it(predictor: pw.Predictor) -> None:
    frames = clip(8)
    results = list(track_video(predictor, frames, {0: {1: POINT, 2: BOX}}))
    state = results[-1][0]
    before = {found.frame: found for _, found in results}
    again = Prompts.of(torch.tensor([[[2.0, 3], [30, 20]]]), torch.tensor([[1, 0]]))
    after = by_frame(track_video(predictor, frames, {4: {1: again}}, state=state, direction="forward"))
    assert sorted(after) == [4, 5, 6, 7]
    for frame in (4, 5, 6, 7):
        assert not torch.equal(after[frame].coarse[0], before[frame].coarse[0])
    # The other object is followed anew, with the same result.
    torch.testing.assert_close(after[5].coarse[1], before[5].coarse[1])
    assert state.tracks[0].prompted[-1].frame == 0  # the earlier state is as it was


def test_an_object_may_come_while_others_are_followed(predictor: pw.Predictor) -> None:
    frames = clip(6)
    first = list(track_video(predictor, frames, {0: {1: POINT}}))
    state, _ = first[2]
    joined = by_frame(track_video(predictor, frames, {3: {7: BOX}}, state=state, direction="forward"))
    assert joined[3].objects == (1, 7)
    for frame in (3, 4, 5):
        torch.testing.assert_close(joined[frame].coarse[0], first[frame][1].coarse[0])


def test_the_state_can_be_saved_and_gone_on_from(predictor: pw.Predictor, tmp_path: Path) -> None:
    frames = clip(20)
    whole = list(track_video(predictor, frames, {0: {1: POINT, 2: BOX}}))
    save_tracks(whole[11][0], tmp_path / "tracks.safetensors")
    state = load_tracks(tmp_path / "tracks.safetensors")
    rest = by_frame(track_video(predictor, frames, {}, state=state))
    assert sorted(rest) == list(range(12, 20))
    for _, found in whole[12:]:
        assert same(rest[found.frame], found)
    assert state.size == (HEIGHT, WIDTH)


def test_other_files_are_not_taken_for_tracks(predictor: pw.Predictor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"kept in a .safetensors file, got 'a.pt'"):
        save_tracks(TrackState((2, 3)), tmp_path / "a.pt")
    with pytest.raises(ValueError, match="there is no file"):
        load_tracks(tmp_path / "none.safetensors")
    path = tmp_path / "model.safetensors"
    predictor.model.built_by = pw.build("sam2", image_size=32).built_by
    pw.save(predictor.model, path, predictor.classes)
    with pytest.raises(ValueError, match="holds no tracks"):
        load_tracks(path)
    state = list(track_video(predictor, clip(3), {0: {1: POINT}}))[-1][0]
    whole = save_tracks(state, tmp_path / "t.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-50])
    with pytest.raises(ValueError, match="not a whole file of tracks"):
        load_tracks(tmp_path / "cut.safetensors")


class Counted:
    """Frames that know how many of them are alive."""

    def __init__(self, count: int) -> None:
        self.count, self.alive, self.most = count, 0, 0

    def __iter__(self) -> Iterator[np.ndarray]:
        random = np.random.default_rng(4)
        for _ in range(self.count):
            frame = random.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
            self.alive += 1
            self.most = max(self.most, self.alive)
            weakref.finalize(frame, self._gone)
            yield frame
            del frame

    def _gone(self) -> None:
        self.alive -= 1


@pytest.mark.parametrize("count", [45, pytest.param(500, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_length_of_the_video(predictor: pw.Predictor, count: int) -> None:
    frames = Counted(count)
    gc.collect()
    sizes = [size_of(state) for state, _ in track_video(predictor, iter(frames), {0: {1: POINT}})]
    assert len(sizes) == count
    assert max(sizes) == sizes[40]  # the bank is full
    assert sizes[-1] == sizes[40]
    assert frames.most <= 3


def test_a_long_video_is_read_backwards_in_blocks(
    predictor: pw.Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = clip(9)
    wanted = by_frame(track_video(predictor, frames, {7: {1: POINT}}, direction="backward"))
    monkeypatch.setattr(tracking, "_BLOCK", 3 * frames[0].nbytes)
    found = list(track_video(predictor, frames, {7: {1: POINT}}, direction="backward"))
    assert [one.frame for _, one in found] == [7, 6, 5, 4, 3, 2, 1, 0]
    assert all(same(one, wanted[one.frame]) for _, one in found)


def test_an_iterator_is_gone_through_once_and_objects_join_at_their_frame(predictor: pw.Predictor) -> None:
    found = [one for _, one in track_video(predictor, iter(clip(6)), {1: {1: POINT}, 3: {2: BOX}})]
    assert [(one.frame, one.objects) for one in found] == [
        (1, (1,)), (2, (1,)), (3, (1, 2)), (4, (1, 2)), (5, (1, 2))
    ]  # fmt: skip


def test_a_folder_of_images_is_a_video(predictor: pw.Predictor, tmp_path: Path) -> None:
    frames = clip(3)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"frame{number + 9}.png")  # 9, 10, 11: in the order of numbers
    wanted = by_frame(track_video(predictor, frames, {0: {1: POINT}}))
    found = by_frame(track_video(predictor, tmp_path, {0: {1: POINT}}))
    assert sorted(found) == [0, 1, 2]
    assert all(same(found[frame], wanted[frame]) for frame in found)


def test_what_cannot_be_followed_is_told_in_one_sentence(predictor: pw.Predictor) -> None:
    frames = clip(3)

    def run(video: object = frames, prompts: object = {0: {1: POINT}}, **arguments: object) -> None:
        list(track_video(predictor, video, prompts, **arguments))

    with pytest.raises(ValueError, match="there is no frame 7: the video has frames 0 to 2"):
        run(prompts={7: {1: POINT}})
    with pytest.raises(ValueError, match="there is no frame -1"):
        run(prompts={-1: {1: POINT}})
    with pytest.raises(ValueError, match="there is no frame 3: the iterator has frames 0 to 2"):
        run(iter(frames), {0: {1: POINT}, 3: {1: POINT}})
    with pytest.raises(
        ValueError, match=r"frame 1 of the iterator has 20 x 34 pixels, the first one 21 x 34"
    ):
        run([frames[0], frames[1][:20]])
    with pytest.raises(ValueError, match="the video is empty: it has no frame"):
        run([])
    with pytest.raises(ValueError, match="the iterator is empty: it has no frame"):
        run(iter([]))
    with pytest.raises(ValueError, match="there is nothing to follow"):
        run(prompts={})
    with pytest.raises(ValueError, match="objects have numbers from 1 on, got 0"):
        run(prompts={0: {0: POINT}})
    with pytest.raises(ValueError, match="object 1 needs one prompt in frame 0, got 2"):
        run(prompts={0: {1: Prompts.at([(1, 2), (3, 4)])}})
    with pytest.raises(ValueError, match="the point 99,2 lies outside of the image"):
        run(prompts={0: {1: Prompts.at([(99, 2)])}})
    with pytest.raises(ValueError, match="has no area"):
        run(prompts={0: {1: Prompts.of(boxes=torch.tensor([[5.0, 5, 5, 9]]))}})
    with pytest.raises(ValueError, match="direction must be one of both, forward, backward, got 'up'"):
        run(direction="up")
    with pytest.raises(ValueError, match="cannot be followed backward"):
        run(iter(frames), direction="backward")
    state = TrackState((9, 9))
    with pytest.raises(ValueError, match="all frames must have one size, got 21 x 34 and 9 x 9 pixels"):
        run(state=state)
    plain = pw.Predictor(pw.build("pspnet", 2, encoder="tiny"), ClassTable.of("a", "b"))
    with pytest.raises(ValueError, match="PSPNet"):
        list(track_video(plain, frames, {0: {1: POINT}}))


def test_states_move_between_devices_and_types(predictor: pw.Predictor) -> None:
    assert isinstance(predictor.model, SAM2)
    state, _ = next(track_video(predictor, clip(2), {0: {1: POINT}}))
    moved = state.to("meta")
    assert moved.tracks[0].prompted[0].features.device.type == "meta"
    assert moved.tracks[0].prompted[0].frame == 0
    assert state.tracks[0].prompted[0].features.dtype == torch.bfloat16


def test_small_holes_are_filled_and_remembered_so_where_a_prompt_was_given(predictor: pw.Predictor) -> None:
    frames = clip(2)
    embedded = [predictor.embed(frame) for frame in frames]
    start = TrackState((HEIGHT, WIDTH))
    masks = torch.ones(1, HEIGHT, WIDTH)
    masks[:, 6:12, 8:16] = -1  # a hole of four cells
    prompt = Prompts.of(masks=masks)
    after, plain = predictor.track(start, 0, embedded[0], {1: prompt})
    with_hole, without = after.tracks[0].prompted[0], without_small_holes(plain.coarse, 9)
    after_filled, filled = predictor.track(start, 0, embedded[0], {1: prompt}, fill_holes=9)
    assert not torch.equal(plain.coarse > 0, without > 0)
    assert torch.equal(filled.coarse, without)
    known = after_filled.tracks[0].prompted[0]
    assert torch.equal(known.answer, without[0])
    assert not torch.equal(known.features, with_hole.features)
    later, plain = predictor.track(after, 1, embedded[1])
    later_filled, filled = predictor.track(after, 1, embedded[1], fill_holes=60)
    assert torch.equal(filled.coarse, without_small_holes(plain.coarse, 60))
    assert not torch.equal(filled.coarse, plain.coarse)
    assert torch.equal(later.tracks[0].recent[0].features, later_filled.tracks[0].recent[0].features)


def test_a_whole_video_has_its_small_holes_filled_unless_told_otherwise(predictor: pw.Predictor) -> None:
    frames = clip(3)
    filled = by_frame(track_video(predictor, frames, {0: {1: POINT}}))
    left = by_frame(track_video(predictor, frames, {0: {1: POINT}}, fill_holes=0))
    assert torch.equal(filled[0].coarse, without_small_holes(left[0].coarse, 8))
    with pytest.raises(ValueError, match="fill_holes must be at least 0, got -1"):
        track_video(predictor, frames, {0: {1: POINT}}, fill_holes=-1)
