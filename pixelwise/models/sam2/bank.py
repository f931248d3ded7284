"""The memory bank of SAM 2 (Sec. 4): which memories are kept, and which of them a frame attends to.

Prompted frames are kept for good. Of the others those are that a frame may still ask for: neighbours of the
frame that was seen last, on which the video goes on, and of prompted frames, from which it may be followed
the other way. So the bank grows with the prompts, not with the video. The authors' code and its ports keep
the memories of all frames; of what they ask for nothing is missing here, unless a frame far from all of these
is corrected later: that sees the prompted frames only.
"""

from dataclasses import dataclass, replace

from ...types import Memory, Track

NEAR = 6  # frames whose memories are attended to
POINTERS = 16  # frames whose object pointers are, with the frame itself


@dataclass(frozen=True)
class Recalled:
    """What a frame attends to.

    Attributes:
        memories: with how many frames away each is, 0 for prompted ones.
        pointers: likewise, but with the true distance for prompted ones as well.
        longest: distance that counts as 1.
    """

    memories: tuple[tuple[int, Memory], ...]
    pointers: tuple[tuple[int, Memory], ...]
    longest: int


def recall(track: Track, frame: int, num_frames: int | None, *, reverse: bool) -> Recalled:
    """What a frame attends to: prompted frames, before or after it, and those that it comes from.

    Args:
        track: the object.
        frame: number of the frame.
        num_frames: of the video; None where nobody knows.
        reverse: whether the video is followed backwards.
    """
    onward = -1 if reverse else 1
    recent = {memory.frame: memory for memory in track.recent}
    memories = [(0, memory) for memory in track.prompted]
    for away in range(NEAR, 0, -1):
        memory = recent.get(frame - onward * away)
        if memory is not None and memory.features is not None:
            memories.append((away, memory))
    past = [(onward * (frame - memory.frame), memory) for memory in track.prompted]
    pointers = [(away, memory) for away, memory in past if away >= 0]
    most = POINTERS if num_frames is None else min(num_frames, POINTERS)
    for away in range(1, most):
        memory = recent.get(frame - onward * away)
        if memory is not None:
            pointers.append((away, memory))
    return Recalled(tuple(memories), tuple(pointers), max(most - 1, 1))


def keep(track: Track, memory: Memory, *, prompted: bool) -> Track:
    """The object with one memory more, which replaces an earlier one of that frame."""
    old = tuple(one for one in track.prompted if one.frame != memory.frame)
    recent = tuple(one for one in track.recent if one.frame != memory.frame)
    if prompted:
        track = replace(track, prompted=(*old, memory))
    else:
        first = memory.frame if track.first < 0 else min(track.first, memory.frame)
        track = replace(track, first=first, last=max(track.last, memory.frame))
        recent = (*recent, memory)
    centres = [one.frame for one in (*recent[-1:], *track.prompted)]  # the last one that was followed
    kept = []
    for one in recent:
        away = min(abs(one.frame - centre) for centre in centres)
        if away <= NEAR:
            kept.append(one)
        elif away < POINTERS:
            kept.append(one if one.features is None else replace(one, features=None))
    return replace(track, recent=tuple(kept))
